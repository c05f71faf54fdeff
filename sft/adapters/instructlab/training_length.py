"""How long a training is: its optimizer steps, and the epochs that it begins. Pure: the plan and the ranks ask it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class TrainingLength:
    """A training's optimizer steps.

    Attributes:
        num_steps: In all.
        num_epochs: Those that it begins; the last one may end early.
        rows_of_last: Samples that it sees of the last one.
    """

    num_steps: int
    num_epochs: int
    rows_of_last: int


def training_length(num_rows: int, batch_size: int, num_epochs: float, max_steps: int | None) -> TrainingLength:
    """Return the length of a training.

    Args:
        num_rows: Samples of an epoch.
        batch_size: Samples of a step; the last step of an epoch may have fewer.
        num_epochs: Perhaps with a fraction, of which the steps are rounded up (as transformers does).
        max_steps: Steps in all, whatever `num_epochs` says; None = `num_epochs` holds.
    """
    per_epoch = math.ceil(num_rows / batch_size)
    if not per_epoch:
        return TrainingLength(0, 0, 0)
    # As it is written: 0.1 of 30 steps are 3, and 0.1 * 30 is more than that.
    num_steps = max_steps if max_steps is not None else math.ceil(Fraction(repr(num_epochs)) * per_epoch)
    begun = math.ceil(num_steps / per_epoch)
    steps_of_last = num_steps - (begun - 1) * per_epoch
    return TrainingLength(num_steps, begun, min(num_rows, steps_of_last * batch_size))
