"""Steps, epochs and samples of a training, counted one step at a time."""

from __future__ import annotations

from itertools import product

import pytest

from sft.adapters.instructlab.training_length import TrainingLength, training_length


def counted(num_rows: int, batch: int, num_steps: int) -> TrainingLength:
    """Walk the steps: the last batch of an epoch holds what is left."""
    epochs, left, seen = 0, 0, 0
    for _ in range(num_steps):
        if not left:
            epochs, left, seen = epochs + 1, num_rows, 0
        taken = min(batch, left)
        left, seen = left - taken, seen + taken
    return TrainingLength(num_steps, epochs, seen)


@pytest.mark.parametrize(("rows", "batch", "steps"), [*product((1, 5, 20), (1, 4, 32), (1, 2, 5, 11))])
def test_max_steps_ends_wherever_it_falls(rows: int, batch: int, steps: int) -> None:
    assert training_length(rows, batch, 3.0, steps) == counted(rows, batch, steps)


@pytest.mark.parametrize(
    ("epochs", "steps"), [(1, 30), (2.0, 60), (0.1, 3), (0.7, 21), (1.5, 45), (0.05, 2), (1e-6, 1), (2.34, 71)]
)
def test_a_fraction_of_an_epoch_is_rounded_up_to_a_step_as_it_is_written(epochs: float, steps: int) -> None:
    assert training_length(300, 10, epochs, None) == counted(300, 10, steps)


def test_whole_epochs_see_every_row() -> None:
    assert training_length(7, 2, 3.0, None) == TrainingLength(12, 3, 7)


def test_without_rows_there_is_nothing_to_do() -> None:
    assert training_length(0, 8, 2.0, None) == TrainingLength(0, 0, 0)
