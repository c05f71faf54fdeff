"""Runs the processes that score a model for the evaluation stage: one, or with vLLM one after another."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft.adapters.evaluation import vllm_server
from sft.adapters.evaluation.as_saved import weights_dtype
from sft.adapters.os import inherited, machine
from sft.adapters.os.interpreter import why_not
from sft.adapters.os.process import run_module
from sft.config.schema import EvalBackend, EvalConfig
from sft.errors import ConfigError, Problem, StageError
from sft.progress import Progress


def vllm_version(cfg: EvalConfig) -> str:
    """Return which vLLM will answer the tasks; empty where none is asked.

    Raises:
        ConfigError: `eval.vllm.python` is no interpreter, or its environment has no vLLM.
    """
    if not cfg.enabled or cfg.backend is not EvalBackend.vllm or cfg.vllm.python is None:
        return ""
    python = Path(cfg.vllm.python).expanduser()
    fix = None
    try:
        if version := vllm_server.installed(python):
            return version
        rule, fix = "its environment has no vLLM", f"{python} -m pip install vllm"
    except (OSError, subprocess.TimeoutExpired, StageError) as error:
        rule = why_not(error, "vLLM")
    raise ConfigError([Problem(key="eval.vllm.python", value=str(python), rule=rule, suggestion=fix)])


def emulated_type(cfg: EvalConfig, model_dir: Path) -> str:
    """Return the type of a model's weights if this machine computes with it slowly, with instructions of another one.

    Empty where it does not, where the recipe names a type, and where something else than this CPU answers.

    Raises:
        StageError: The weights can't be read.
    """
    if cfg.backend is not EvalBackend.hf or "dtype" in cfg.model_args or machine.gpus():
        return ""
    saved = weights_dtype(model_dir)
    return saved if machine.cpu_emulates(saved) else ""


def score_model(
    cfg: EvalConfig, request: Mapping[str, Any], folder: Path, progress: Progress, poll: Callable[[], None]
) -> dict[str, Any]:
    """Return what `sft.adapters.evaluation.worker` makes of a request.

    Args:
        cfg: The evaluation settings.
        request: Of the worker.
        folder: Private folder for logs.
        progress: The run's display.
        poll: Called while a process works.

    Raises:
        StageError: A process failed. With vLLM: it did not start, or ended before it had answered.
    """
    if dropped := inherited.changing_numbers(os.environ, ()):
        progress.say(inherited.told(dropped, "the evaluation"))
    if cfg.backend is EvalBackend.vllm and request["tasks"]:
        if own := vllm_server.own_settings(os.environ):
            progress.say(f"  vLLM takes from this environment, and no key says so: {', '.join(own)}")
        return _with_vllm(cfg, request, folder, progress, poll)
    first = {"CUDA_VISIBLE_DEVICES": request["devices"][0]} if request["devices"] else None
    return _run(request, folder, poll, first)


def _run(
    request: Mapping[str, Any], folder: Path, poll: Callable[[], None], env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    module = "sft.adapters.evaluation.worker"
    dropped = inherited.changing_numbers(os.environ, env or ())
    return run_module(module, request, folder=folder, what="evaluating", env=env, without=dropped, poll=poll)


def _with_vllm(
    cfg: EvalConfig, request: Mapping[str, Any], folder: Path, progress: Progress, poll: Callable[[], None]
) -> dict[str, Any]:
    """Score the tasks with vLLM; then, when its memory is free again, held-out samples with transformers."""
    model_dir = Path(request["model_dir"])
    settings = vllm_server.VllmSettings(
        **{**asdict(cfg.vllm), "python": Path(str(cfg.vllm.python)).expanduser()},
        model_dir=model_dir,
        trust_remote_code=request["trust_remote_code"],
        dtype=weights_dtype(model_dir),
        seed=cfg.seed,
    )
    with vllm_server.serving(settings, folder / "vllm.txt", progress.update) as server:

        def poll_both() -> None:
            server.check()
            poll()

        at = {"address": server.address, "name": server.name, "max_model_len": server.max_model_len}
        try:
            tasks = _run({**request, "server": at, "held_out": []}, folder, poll_both, {"OPENAI_API_KEY": server.key})
        except StageError:
            server.check()  # if the server has ended, that is the error
            raise
    if not request["held_out"]:
        return tasks
    rest = _run({**request, "tasks": []}, folder, poll)
    return {
        **rest,
        "scores": [*tasks["scores"], *rest["scores"]],
        "versions": tasks["versions"],
        "data": {**tasks["data"], **rest["data"]},
        "num_kept": tasks["num_kept"] + rest["num_kept"],
        "num_new": tasks["num_new"] + rest["num_new"],
        **{name: list(dict.fromkeys([*tasks[name], *rest[name]])) for name in ("notes", "differs_from_saved")},
    }
