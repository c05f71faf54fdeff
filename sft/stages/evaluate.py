"""The evaluation stage: a model in, its scores out: lm-eval tasks, then the held-out split."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft.adapters import harness
from sft.adapters.child import write_json
from sft.adapters.process import run_module
from sft.artifacts import LOGS_NAME, DatasetArtifact, EvalReport, Score, digest_of, hash_files
from sft.config.schema import EvalConfig
from sft.errors import ConfigError, Problem, StageError
from sft.progress import Progress

REPORT_NAME = "report.json"


@dataclass(frozen=True, kw_only=True)
class EvaluateInputs:
    """What the evaluation stage takes.

    Attributes:
        model_dir: The model to score, in Hugging Face layout.
        model_digest: Digest of the artifact that holds it.
    """

    model_dir: Path
    model_digest: str
    trust_remote_code: bool
    dataset: DatasetArtifact


def tasks_version(cfg: EvalConfig) -> str:
    """Digest of the recipe's own tasks; empty without any.

    Raises:
        ConfigError: `eval.include_path` is not a folder.
    """
    if cfg.include_path is None:
        return ""
    folder = Path(cfg.include_path).expanduser()
    if not folder.is_dir():
        rule = f"is not a folder (relative paths start at {Path.cwd()})"
        raise ConfigError([Problem(key="eval.include_path", value=cfg.include_path, rule=rule)])
    return digest_of(hash_files(folder))


def evaluate(cfg: EvalConfig, inputs: EvaluateInputs, out: Path, progress: Progress) -> EvalReport:
    """Scores one model.

    Args:
        cfg: The evaluation settings.
        inputs: Model and dataset.
        out: Private staging folder.
        progress: The run's display.

    Raises:
        StageError: A task is unknown, a metric is missing or not a number, a sample can't be rendered, or there is
            nothing to score where something was asked for.
    """
    folder = out / LOGS_NAME
    state = folder / harness.PROGRESS
    if cfg.holdout.enabled and not inputs.dataset.num_eval:
        if not cfg.tasks:
            raise StageError(
                "nothing to score: eval.tasks is empty, and the dataset has no held-out split",
                fix="dataset.train_split below 1, a task in eval.tasks, or eval=none",
            )
        progress.say("  no held-out split (dataset.train_split=1.0): only eval.tasks are scored")

    def poll() -> None:
        if state.exists():
            progress.update(json.loads(state.read_text(encoding="utf-8"))["text"])

    request = request_of(cfg, inputs, out, state)
    result = run_module("sft.adapters.harness", request, folder=folder, what="evaluating", poll=poll)
    report = EvalReport(
        root=out, model_digest=inputs.model_digest, scores=tuple(Score(**score) for score in result["scores"])
    )
    facts = {"model_digest": report.model_digest, "scores": [asdict(score) for score in report.scores]}
    rest = {"task_versions": result["versions"], "chat_template_sha256": result["chat_template_sha256"]}
    write_json(out / REPORT_NAME, facts | rest)
    progress.say("  " + ", ".join(f"{score.name} {score.value:.4f}" for score in report.scores))
    return report


def request_of(cfg: EvalConfig, inputs: EvaluateInputs, out: Path, state: Path) -> dict[str, Any]:
    """The one place where our settings become the child's request."""
    batch_size = None if cfg.batch_size == "auto" else int(cfg.batch_size)
    scored = cfg.holdout.enabled and inputs.dataset.num_eval > 0
    held_out = {
        "file": str(inputs.dataset.eval_file),
        "generate": cfg.holdout.generate,
        "max_new_tokens": cfg.holdout.max_new_tokens,
        "limit": cfg.holdout.limit,
        "batch_size": batch_size,
        "progress": str(state),
    }
    return {
        "out": str(out),
        "model_dir": str(inputs.model_dir),
        "trust_remote_code": inputs.trust_remote_code,
        "tasks": cfg.tasks,
        "include_path": cfg.include_path and str(Path(cfg.include_path).expanduser()),
        "num_fewshot": cfg.num_fewshot,
        "limit": cfg.limit,
        "batch_size": cfg.batch_size if batch_size is None else batch_size,
        "gen_kwargs": cfg.gen_kwargs,
        "model_args": cfg.model_args,
        "apply_chat_template": cfg.apply_chat_template,
        "log_samples": cfg.log_samples,
        "seed": cfg.seed,
        "holdout": held_out if scored else None,
    }
