"""Inputs of the registry stage, as a small run would leave them, and a call of the stage.

`register_inputs` writes the files that the stage reads (record, metrics, reports, package) and returns the artifacts
that name them. `run_stage` registers them and returns what a person was told; `Told` and `written` are for tests that
look for a secret in it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft.artifacts import (
    CheckpointArtifact,
    DatasetArtifact,
    EvalReport,
    ModelArtifact,
    ModelComparison,
    ModelPackage,
    RegisteredModel,
)
from sft.config.schema import RegistryConfig
from sft.progress import Progress
from sft.scores import Change, Score, Verdict
from sft.stages.register import RegisterInputs, register


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def report(root: Path, *values: float) -> EvalReport:
    root.mkdir(parents=True, exist_ok=True)
    (root / "report.json").write_text(json.dumps({"scores": values}))
    scores = [
        Score(task=task, metric="acc", value=value, stderr=stderr, num_samples=9, higher_is_better=True)
        for task, value, stderr in zip(["arc", "holdout"], values, [0.125, None], strict=True)
    ]
    return EvalReport(root=root, digest=sha(str(values)), model_digest=sha("model"), scores=tuple(scores))


def comparison(root: Path) -> ModelComparison:
    """Write and return what the two reports' difference says: one score is better, of the other nothing is known."""
    facts = {"higher_is_better": True, "num_units": 9}
    arc = Change(
        score="arc.acc", before=0.25, difference=0.25, verdict=Verdict.better, interval=(0.125, 0.375),
        corrected=(0.125, 0.375), detectable=0.5, **facts,
    )  # fmt: skip
    reason = "one sample has no error"
    holdout = Change(score="holdout.acc", before=0.0, difference=0.9375, verdict=Verdict.none, reason=reason, **facts)
    root.mkdir(parents=True, exist_ok=True)
    (root / "comparison.json").write_text("{}")
    return ModelComparison(root=root, confidence=0.95, num_tests=1, changes=(arc, holdout))


def register_inputs(root: Path, *, weights: str = "weights", **changes: Any) -> RegisterInputs:
    """Write and return inputs below `root`; `weights` names the checkpoint's content."""
    run, checkpoint = root / "run", root / f"checkpoint {weights}"
    for folder in (run, checkpoint / "model", checkpoint / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text('{"name": "run-1"}')
    counts = {"seconds": 0.5, "num_tokens": 100, "num_loss_tokens": 40, "mfu": 0.25}
    rows = [{"step": step, "loss": 4.0 / step, "lr": 0.5, "epoch": 0, "device": "cpu", **counts} for step in (1, 2, 4)]
    (checkpoint / "logs" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = RegisterInputs(
        run_id="run-1",
        run_record=run / "run.json",
        base=ModelArtifact(
            root=root,
            digest=sha("base"),
            source="Qwen/Qwen2.5-1.5B-Instruct",
            revision="989aa79",
            external_dir=None,
            num_parameters=1_543_714_304,
        ),
        dataset=DatasetArtifact(
            root=root,
            digest=sha("dataset"),
            source="s3://bucket/chat.jsonl",
            source_version="etag",
            num_rows=100,
            num_train=80,
            num_eval=10,
            num_rejected=3,
            num_duplicates=7,
            num_unused=0,
        ),
        checkpoint=CheckpointArtifact(
            root=checkpoint,
            digest=sha(weights),
            num_steps=4,
            num_epochs=1,
            final_loss=1.0,
            world_size=2,
        ),
        package=ModelPackage(
            root=root / f"package {weights}", digest=sha(f"package {weights}"), record_digest=sha("record")
        ),
        uploaded=None,
        baseline=report(root / "base", 0.25, 0.0),
        report=report(root / "tuned", 0.5, 0.9375),
        comparison=comparison(root / "comparison"),
        gates=None,
        parameters={"training.learning_rate": 5e-6, "training.num_epochs": 1, "model.trust_remote_code": False},
        git_commit="0123abc",
        versions={"torch": "2.13.0"},
        mlflow_database=root / "mlflow.db",
        mlflow_artifacts=root / "mlflow",
    )
    return replace(inputs, **changes)


class Told(Progress):
    """Progress that keeps its lines."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def run_stage(cfg: RegistryConfig, inputs: RegisterInputs, out: Path) -> tuple[RegisteredModel, str]:
    """Register, and return the model and what a person was told."""
    out.mkdir(parents=True)
    told = Told()
    model = register(cfg, inputs, out, told)
    return model, "\n".join(told.lines)


def written(folder: Path) -> str:
    """Return the text of every file that a stage left."""
    return "\n".join(p.read_text() for p in folder.rglob("*") if p.is_file())
