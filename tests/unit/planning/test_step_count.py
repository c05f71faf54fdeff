"""Trainings of a few steps say so, and what they offer makes more."""

from __future__ import annotations

import re

import pytest

from sft.config.schema import TrainingConfig
from sft.planning.step_count import batch_size_of, few_steps_note, length_notes, length_of


def steps(samples: int, batch: int, epochs: float) -> int:
    return length_of(TrainingConfig(effective_batch_size=batch, num_epochs=epochs), samples).num_steps


def test_forty_rows_in_the_default_batch_are_one_step() -> None:
    note = few_steps_note(TrainingConfig(), 40, num_ranks=1)
    assert note == (
        "only 1 optimizer step in all, of 40 samples, training.effective_batch_size=128: "
        "try training.num_epochs=20 or training.effective_batch_size=2"
    )


@pytest.mark.parametrize(("samples", "batch", "epochs", "ranks"), [(40, 128, 1, 1), (7, 2, 2, 2), (300, 64, 1, 8)])
def test_what_is_offered_makes_enough_steps(samples: int, batch: int, epochs: int, ranks: int) -> None:
    note = few_steps_note(TrainingConfig(effective_batch_size=batch, num_epochs=epochs), samples, ranks)
    assert note is not None
    [more_epochs] = re.findall(r"num_epochs=(\d+)", note)
    assert steps(samples, batch, int(more_epochs)) >= 20
    for smaller in re.findall(r"try.*effective_batch_size=(\d+)", note):
        assert ranks <= int(smaller) < batch
        assert steps(samples, int(smaller), epochs) >= 20 or int(smaller) == ranks


@pytest.mark.parametrize("samples", [1280, 10_000])
def test_ten_steps_or_more_are_not_mentioned(samples: int) -> None:
    assert few_steps_note(TrainingConfig(), samples, num_ranks=2) is None


def test_what_validation_takes_is_not_trained() -> None:
    half = few_steps_note(TrainingConfig(validation_split=0.5), 2000, num_ranks=1)
    assert half is not None
    assert "8 optimizer steps in all, of 1000 samples" in half


def test_steps_that_were_asked_for_are_not_few() -> None:
    assert few_steps_note(TrainingConfig(max_steps=2), 40, num_ranks=1) is None


@pytest.mark.parametrize(
    ("samples", "epochs", "batch", "steps"),
    [(40, 1, 4, 10), (400, 1, 8, 50), (390, 1, 4, 98), (1000, 2, 32, 64), (6273, 1, 128, 50), (10**6, 1, 128, 7813)],
)
def test_a_batch_by_the_samples_makes_fifty_steps_where_it_can(
    samples: int, epochs: int, batch: int, steps: int
) -> None:
    cfg = TrainingConfig(effective_batch_size=None, num_epochs=epochs)
    assert batch_size_of(cfg, samples) == batch
    assert length_of(cfg, samples).num_steps == steps


def test_ranks_without_a_sample_are_told() -> None:
    [idle] = length_notes(TrainingConfig(effective_batch_size=None), 40, num_ranks=8)
    assert idle == "training.effective_batch_size=null chose 4, so 4 ranks have nothing to do in a step"
    assert length_notes(TrainingConfig(effective_batch_size=None), 10**6, num_ranks=8) == []
