"""A run as its page shows it, with every kind of section: nothing was trained, and all figures are invented."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec

from sft import record
from sft.artifacts import (
    Artifact,
    CheckpointArtifact,
    DatasetArtifact,
    EvalReport,
    GateReport,
    ModelArtifact,
    ModelComparison,
    ModelPackage,
    TokenizedArtifact,
)
from sft.report.run_view import RunView
from sft.scores import Change, Score, Verdict
from sft.stages.changed_samples import ChangedSample

STEPS = ("dataset", "model", "tokenize", "evaluate:base", "train", "evaluate:tuned", "compare", "gates", "package")
_KEY = "0123456789abcdef0123"


def view(root: Path, *, upto: str = "package", num_steps: int = 300, **facts: Any) -> RunView:
    """Return the view of a run whose steps are done up to one of them, with its files below a run root.

    Args:
        root: The run root.
        upto: The last step that is done.
        num_steps: Optimizer steps of the training.
        facts: Of the `RunView`.
    """
    folder = root / "my-run"
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: artifact for name, artifact in _artifacts(root / "store", num_steps).items() if name in _until(upto)}
    begun = record.begin(
        run_id="my-run",
        recipe=root / "my.yaml",
        command=["sft", "run", "my.yaml", "training.num_epochs=2"],
        config={"name": "my", "model": {"trust_remote_code": False}, "training": {"num_epochs": 2}},
        gpus=[],
        resources={"num_processes": {"value": 2, "reason": "as the recipe says"}},
        steps=STEPS,
    )
    begun.started_at, begun.status = "2026-01-01T10:00:00Z", "done"
    for place, step in enumerate(begun.steps):
        if step.name in made:
            step.status, step.key, step.output = "done", _KEY, f"{place:064x}"
            step.started_at, step.seconds = f"2026-01-01T10:{2 * place:02}:00Z", 90.0
            step.path, step.facts = str(made[step.name].root), _facts(made[step.name])
    begun.step("dataset").reused = True
    return RunView(folder=folder, record=begun, artifacts=made, **facts)


def _until(upto: str) -> tuple[str, ...]:
    return STEPS[: STEPS.index(upto) + 1]


def _facts(artifact: Artifact) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(artifact, enc_hook=str)
    return {name: value for name, value in facts.items() if name not in {"root", "digest"}}


def _artifacts(store: Path, num_steps: int) -> dict[str, Artifact]:
    def at(stage: str) -> Path:
        folder = store / stage / _KEY
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        return folder

    before = Score(task="holdout", metric="loss", value=2.5, stderr=0.1, num_samples=50, higher_is_better=False)
    changes = (
        _change("holdout.loss", -1.0, -1.4, -0.6, Verdict.better, higher=False),
        _change("arc_easy.acc", 0.01, -0.05, 0.07, Verdict.no_difference, higher=True),
        _change("piqa.acc", -0.2, -0.3, -0.1, Verdict.worse, higher=True),
    )
    scores = tuple(
        Score(
            task=change.score.partition(".")[0],
            metric=change.score.partition(".")[2],
            value=change.before + change.difference,
            stderr=0.01,
            num_samples=50,
            higher_is_better=change.higher_is_better,
        )
        for change in changes
    )
    made: dict[str, Artifact] = {
        "dataset": DatasetArtifact(
            root=at("dataset"), source="chats.jsonl", source_version="", num_rows=210, num_train=180, num_eval=20,
            num_rejected=4, num_duplicates=6, num_unused=0, source_files={"chats.jsonl": "ab" * 32},
        ),
        "model": ModelArtifact(
            root=at("model"), source="org/base", revision="c0ffee", external_dir=None, num_parameters=134_515_008
        ),
        "tokenize": TokenizedArtifact(
            root=at("tokenize"), num_rows=180, num_samples=180, num_tokens=9000, num_loss_tokens=4500, longest_tokens=99
        ),
        "evaluate:base": EvalReport(root=at("evaluate"), model_digest="", scores=(before,)),
        "train": CheckpointArtifact(
            root=at("train"), num_steps=num_steps, num_epochs=2, final_loss=1.2345, world_size=2
        ),
        "evaluate:tuned": EvalReport(root=at("evaluate"), model_digest="", scores=scores),
        "compare": ModelComparison(root=at("compare"), confidence=0.95, num_tests=3, changes=changes),
        "gates": GateReport(root=at("gates"), passed=("holdout.loss 1.5000 < baseline 2.5000",)),
        "package": ModelPackage(root=at("package"), record_digest=""),
    }  # fmt: skip
    _write(made["tokenize"].root / "data.jsonl", [{"input_ids": [], "len": 20 + place % 80} for place in range(180)])
    pieces = [
        {"text": "<|im_start|>user\nIs 1 < 2?", "token_ids": [1, 2], "is_loss": False, "is_special": False},
        {"text": "Yes, it is.", "token_ids": [3], "is_loss": True, "is_special": False},
    ]
    (made["tokenize"].root / "logs" / "samples.json").write_text(json.dumps({"samples": [{"pieces": pieces}]}))
    _write(made["train"].root / "logs" / "metrics.jsonl", [step_row(step) for step in range(1, num_steps + 1)])
    _write(made["train"].root / "logs" / "resumes.jsonl", [{"step": num_steps // 2}])
    changed = ChangedSample(
        task="holdout", sample=7, turn=1, change=2.0, prompt="Is 1 < 2?", reference="Yes.", base="No " * 40,
        tuned="Yes.", scores={"loss": (2.0, 0.5)},
    )  # fmt: skip
    (made["compare"].root / "samples_changed.jsonl").write_bytes((msgspec.json.encode(changed) + b"\n") * 6)
    return made


def step_row(step: int) -> dict[str, Any]:
    """Return a row of ``metrics.jsonl``."""
    return {
        "step": step,
        "loss": 4.0 * math.exp(-step / 100) + 0.1,
        **({"validation_loss": 4.2 * math.exp(-step / 120) + 0.2} if step % 50 == 0 else {}),
        "learning_rate": 1e-5 * (1 - step / 1000),
        "gradient_norm": 1.0 + 1 / step,
        "tokens_per_second": 12_345.6 + step % 7,
        "mfu": 0.412,
        "memory_bytes": 11 << 30,
    }


def _change(score: str, difference: float, low: float, high: float, verdict: Verdict, *, higher: bool) -> Change:
    return Change(
        score=score,
        before=2.5,
        difference=difference,
        higher_is_better=higher,
        verdict=verdict,
        num_units=50,
        interval=(low, high),
        corrected=(low, high),
        detectable=0.1,
    )


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
