"""Which model is an epoch's, and how its scores stand beside the tuned model's."""

from __future__ import annotations

import json
from pathlib import Path

from sft.artifacts import CheckpointArtifact, ChosenStep, EpochEnd, EvalReport
from sft.scores import Score
from sft.stages.epoch_scores import epoch_table, epochs_of


def report(root: Path, **values: float) -> EvalReport:
    scores = tuple(
        Score(task="holdout", metric=metric, value=value, stderr=0.1, num_samples=9, higher_is_better=False)
        for metric, value in values.items()
    )
    return EvalReport(root=root, model_digest="m", scores=scores)


def test_an_epochs_model_is_the_one_after_its_last_sample(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    seen = [(0, 8), (0, 10), (1, 18), (1, 20), (2, 28), (2, 30)]
    steps = [{"epoch": epoch, "step": step, "samples_seen": count} for step, (epoch, count) in enumerate(seen, 1)]
    (tmp_path / "logs" / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    trained = CheckpointArtifact(root=tmp_path, num_steps=6, num_epochs=3, final_loss=1.0, world_size=1)
    assert trained.epoch_end(1) == EpochEnd(step=2, folder="checkpoints/samples_10")
    assert trained.epoch_end(2) == EpochEnd(step=4, folder="checkpoints/samples_20")
    assert trained.epoch_end(3) == EpochEnd(step=6, folder="model")


def test_the_last_epochs_model_lies_among_the_others_where_a_validation_chose_another(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "metrics.jsonl").write_text('{"epoch": 0, "step": 1, "samples_seen": 4}\n')
    choice = ChosenStep(step=1, metric="validation_loss", value=1.0, num_steps=1, num_planned=1)
    trained = CheckpointArtifact(root=tmp_path, num_steps=1, num_epochs=1, final_loss=1.0, world_size=1, choice=choice)
    assert trained.epoch_end(1).folder == "checkpoints/samples_4"


def test_the_table_has_the_epochs_in_order_and_only_what_they_were_scored_for(tmp_path: Path) -> None:
    made = {
        "evaluate:epoch-10": report(tmp_path, loss=2.0),
        "evaluate:tuned": report(tmp_path, loss=1.0, perplexity=3.0),
        "evaluate:epoch-9": report(tmp_path, loss=2.5),
    }
    epochs = epochs_of(made)
    assert epoch_table(epochs, made["evaluate:tuned"]) == [
        ["score", "epoch 9", "epoch 10", "last epoch"],
        ["holdout.loss", "2.5000 ± 0.1000", "2.0000 ± 0.1000", "1.0000 ± 0.1000"],
    ]
    assert epoch_table({}, made["evaluate:tuned"]) == []
    choice = ChosenStep(step=7, metric="validation_loss", value=1.0, num_steps=9, num_planned=9)
    assert epoch_table(epochs, made["evaluate:tuned"], choice)[0] == ["score", "epoch 9", "epoch 10", "chosen step 7"]
