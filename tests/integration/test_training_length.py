"""Trainings that end within an epoch: their steps, samples, schedule, models on the way, and what a kill changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sft.progress import Progress
from sft.stages.training_task import TrainInputs
from tests.support.training import (
    BATCH,
    RATE,
    STEPS_PER_EPOCH,
    WARMUP,
    changed,
    curve,
    metrics,
    running,
    steps_done,
    train,
    wait_for,
    weights,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


@pytest.mark.exhaustive
def test_a_fraction_of_an_epoch_ends_at_its_step_with_its_schedule_and_a_kill_changes_nothing(
    train_inputs: TrainInputs, tmp_path: Path
) -> None:
    cfg = changed(num_epochs=1.5, checkpoint_at_epoch=True, validation_split=0.1, checkpoint_every_steps=1)
    steps_per_epoch, num_rows = 6, 180
    (undisturbed := tmp_path / "whole").mkdir()
    whole = train(cfg, train_inputs, undisturbed, Progress(quiet=True))
    rows = metrics(undisturbed)
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert rows[steps_per_epoch - 1]["samples_seen"] == num_rows
    assert rows[-1]["samples_seen"] == num_rows + 3 * BATCH
    assert (whole.num_steps, whole.num_epochs) == (9, round((num_rows + 3 * BATCH) / num_rows, 3))
    expected = [RATE * min(n / WARMUP, (9 - n) / (9 - WARMUP)) for n in range(1, 10)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)
    assert [row["step"] for row in rows if "validation_loss" in row] == [6, 9]
    assert [model.name for model in (undisturbed / "checkpoints").iterdir()] == [f"samples_{num_rows}"]
    assert (whole.root / whole.epoch_end(1).folder).is_dir()

    (out := tmp_path / "killed").mkdir()
    with running(cfg, train_inputs, out) as parent:
        assert wait_for(lambda: steps_done(out) >= steps_per_epoch + 1 or parent.poll() is not None, 120)
        parent.kill()
    continued = train(cfg, train_inputs, out, Progress(quiet=True))
    assert curve(out) == curve(undisturbed)
    assert weights(continued) == weights(whole)


@pytest.mark.long
def test_max_steps_takes_as_many_epochs_as_it_needs(train_inputs: TrainInputs, tmp_path: Path) -> None:
    checkpoint = train(changed(max_steps=STEPS_PER_EPOCH + 1, num_epochs=1), train_inputs, tmp_path, Progress())
    rows = metrics(tmp_path)
    assert [row["epoch"] for row in rows] == [0] * STEPS_PER_EPOCH + [1]
    assert (checkpoint.num_steps, rows[-1]["samples_seen"]) == (STEPS_PER_EPOCH + 1, 200 + BATCH)
