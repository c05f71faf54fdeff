"""Trainings that end with the best step's weights, or early: which step that is, and what a kill changes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sft.artifacts import ChosenStep
from sft.config.schema import EarlyStoppingConfig, SelectConfig, SelectMode
from sft.files import sha256_file
from sft.progress import Progress
from sft.stages.training_task import TrainInputs
from tests.support.training import BATCH, changed, curve, metrics, ranks, running, steps_done, train, wait_for, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]
HIGHEST = SelectConfig(metric="validation_loss", mode=SelectMode.max)  # of a loss that falls: the first validation
SELECTS = changed(
    num_epochs=1,
    validation_split=0.1,
    validation_frequency=2,
    checkpoint_every_steps=1,
    save_samples=BATCH,
    select=HIGHEST,
)


@pytest.mark.long
def test_the_chosen_steps_weights_are_the_model_and_a_kill_after_it_changes_nothing(
    train_inputs: TrainInputs, tmp_path: Path
) -> None:
    (undisturbed := tmp_path / "whole").mkdir()
    whole = train(SELECTS, train_inputs, undisturbed, Progress(quiet=True))
    rows = {row["step"]: row["validation_loss"] for row in metrics(undisturbed) if "validation_loss" in row}
    assert list(rows) == [2, 4, 6]
    best = max(rows, key=lambda step: rows[step])
    assert best == 2
    assert whole.choice == ChosenStep(
        step=best, metric="validation_loss", value=rows[best], num_steps=6, num_planned=6, stopped_early=False
    )
    assert str(whole.choice).startswith("chose step 2 of 6 by validation_loss ")
    kept = {model.name: sha256_file(model / "model.safetensors") for model in (undisturbed / "checkpoints").iterdir()}
    assert len({*kept.values()}) == len(kept) == 5
    assert weights(whole) == kept[f"samples_{best * BATCH}"]

    (out := tmp_path / "killed").mkdir()
    with running(SELECTS, train_inputs, out) as parent:
        assert wait_for(lambda: steps_done(out) >= best + 2 or parent.poll() is not None, 240)
        parent.kill()
        assert wait_for(lambda: not ranks(out), 60), "the ranks end once their parent is gone"
    said: list[str] = []
    progress = Progress(quiet=True)
    progress.say = said.append  # type: ignore[method-assign]
    continued = train(SELECTS, train_inputs, out, progress)
    went_on = next(int(line.split()[3].rstrip(",")) for line in said if "resumes after step" in line)
    assert went_on > best, "the state that it went on from was to hold the chosen weights"
    assert continued.choice == whole.choice
    assert weights(continued) == weights(whole)
    assert curve(out) == curve(undisturbed)


@pytest.mark.long
def test_a_training_stops_once_nothing_improves_and_only_the_newest_models_on_the_way_stay(
    train_inputs: TrainInputs, tmp_path: Path
) -> None:
    cfg = replace(
        SELECTS,
        early_stopping=EarlyStoppingConfig(patience=1),
        validation_frequency=1,
        num_epochs=3,
        checkpoint_limit=1,
    )
    checkpoint = train(cfg, train_inputs, tmp_path, Progress(quiet=True))
    rows = metrics(tmp_path)
    losses = [row["validation_loss"] for row in rows]
    first_worse = next(step for step in range(1, len(losses)) if losses[step] <= max(losses[:step]))
    assert len(rows) == first_worse + 1 < 18
    assert checkpoint.choice
    assert (checkpoint.choice.num_planned, checkpoint.choice.stopped_early) == (18, True)
    assert checkpoint.choice.step == first_worse
    assert checkpoint.num_steps == len(rows)
    assert [model.name for model in (tmp_path / "checkpoints").iterdir()] == [f"samples_{len(rows) * BATCH}"]
