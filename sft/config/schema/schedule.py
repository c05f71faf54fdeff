"""Settings of the learning rate's schedule, besides its name and `training.warmup_steps`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sft.config.schema.bounds import LARGEST_INT32, number


class LrScheduler(Enum):
    """transformers' `SchedulerType` names whose rate depends on the step alone."""

    linear = "linear"
    cosine = "cosine"
    cosine_with_restarts = "cosine_with_restarts"
    cosine_with_min_lr = "cosine_with_min_lr"
    polynomial = "polynomial"
    constant = "constant"
    constant_with_warmup = "constant_with_warmup"
    warmup_stable_decay = "warmup_stable_decay"


@dataclass(kw_only=True)
class ScheduleConfig:
    """What some schedules take; a setting that the chosen one does not read is named in the plan."""

    warmup_ratio: float | None = number(None, at_least=0, below=1)
    """Part of all optimizer steps that is warm-up, rounded up; instead of `training.warmup_steps`."""
    min_learning_rate: float = number(0.0, at_least=0, at_most=1_000)
    """The rate at the end of `cosine_with_min_lr` and `polynomial`; at both ends of `warmup_stable_decay`."""
    cycles: int = number(1, at_least=1, at_most=LARGEST_INT32)
    """How often `cosine_with_restarts` falls from the learning rate to 0."""
    power: float = number(1.0, above=0, at_most=1_000)
    """Of `polynomial`; 1 is a straight line."""
    decay_ratio: float = number(0.1, above=0, at_most=1)
    """Part of all optimizer steps, rounded up, in which `warmup_stable_decay` falls at its end, as half a cosine."""
