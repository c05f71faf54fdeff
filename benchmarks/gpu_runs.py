"""A training that is killed and goes on, and an evaluation of 500 questions: parts of gpu_report.py.

Each runs ``sft`` as a user does. Without a GPU the sizes are tiny, so that the code is tested and nothing is measured.
NOT YET RUN on a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import evaluation
import gpu_trainings

from sft.adapters.os import machine
from sft.files import sha256_file

EVERY_STEPS, KILLED_AFTER, NUM_QUESTIONS = 4, 6, 500
_STAGING = "runs/store/.staging/train-*"


def kill_and_resume() -> dict[str, Any]:
    """Kill a training of the quickstart with `training.deterministic` and continue it: the same bits as undisturbed."""
    asked = ["run", "quickstart", "--until", "train", "training.num_epochs=1", "training.deterministic=true"]
    asked += [f"training.checkpoint_every_steps={EVERY_STEPS}", "training.tracking.trackers=[]"]
    asked += [] if machine.gpus() else ["dataset.uri='synthetic://spell-numbers?rows=1000&seed=0'"]
    with tempfile.TemporaryDirectory(prefix="sft-gpu-kill-") as place:
        undisturbed, killed = (Path(place) / name for name in ("undisturbed", "killed"))
        for folder in (undisturbed, killed):
            folder.mkdir()
        gpu_trainings.run(undisturbed, *asked)
        steps_at_kill = _killed(killed, asked)
        said = gpu_trainings.run(killed, *asked)
        [resumed] = [line.split()[3].rstrip(",") for line in said.splitlines() if "resumes after step" in line]
        curves = [[(row["step"], row["loss"]) for row in gpu_trainings.metrics(each)] for each in (undisturbed, killed)]
        models = [next(each.glob("runs/store/train/*/model/model.safetensors")) for each in (undisturbed, killed)]
        same_weights = sha256_file(models[0]) == sha256_file(models[1])
    return {
        "holds": same_weights and curves[0] == curves[1],
        "same_weights": same_weights,
        "same_losses": curves[0] == curves[1],
        "steps": len(curves[0]),
        "killed_after_step": steps_at_kill,
        "resumed_after_step": int(resumed),
    }


def _killed(folder: Path, asked: list[str]) -> int:
    """Start a training, kill it once a state is whole and some steps more are made; return the steps that were made."""
    argv = [sys.executable, "-m", "sft", *asked]
    with subprocess.Popen(
        argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=gpu_trainings.environment()
    ) as command:
        try:
            while command.poll() is None:
                rows = [file.read_bytes().count(b"\n") for file in folder.glob(f"{_STAGING}/logs/metrics.jsonl")]
                if any(folder.glob(f"{_STAGING}/*/full_state/step_*")) and max(rows, default=0) >= KILLED_AFTER:
                    return rows[0]
                time.sleep(0.01)
        finally:
            command.kill()
    raise RuntimeError("the training ended before it could be killed")


def evaluation_of_500() -> dict[str, Any]:
    """Score a random model of Qwen3-0.6B's shape on 500 questions of four choices, by vLLM if it is installed here."""
    on_gpu, has_vllm = bool(machine.gpus()), importlib.util.find_spec("vllm") is not None
    num_questions = NUM_QUESTIONS if on_gpu else 16
    config = gpu_trainings.TRAININGS["qwen3-0.6b"].config
    with tempfile.TemporaryDirectory(prefix="sft-gpu-eval-") as place:
        folder = Path(place)
        model = gpu_trainings.random_model(folder, config if on_gpu else {**config, **gpu_trainings.TINY})
        tasks = evaluation.tasks_of(folder, num_questions)
        asked = ["eval", str(model), "eval.tasks=[spell_numbers]", f"eval.include_path={tasks}"]
        asked += ["eval.apply_chat_template=true"]
        asked += ["eval.backend=vllm", f"eval.vllm.python={sys.executable}"] if has_vllm and on_gpu else []
        began = time.perf_counter()
        gpu_trainings.run(folder, *asked)
        seconds = time.perf_counter() - began
        [manifest] = folder.glob("runs/store/evaluate/*/manifest.json")
        facts = json.loads(manifest.read_text(encoding="utf-8"))
    [accuracy] = [score for score in facts["facts"]["scores"] if score["metric"] == "acc"]
    return {
        "holds": accuracy["num_samples"] == num_questions and 0 <= accuracy["value"] <= 1,
        "backend": "vllm" if has_vllm and on_gpu else "hf",
        "questions": accuracy["num_samples"],
        "accuracy": accuracy["value"],
        "seconds_from_command_to_end": seconds,
        "questions_per_second_of_scoring": num_questions / facts["seconds"],
    }
