"""Settings of a schedule that contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.schedule_checks import check_schedule
from sft.config.schema import LrScheduler, ScheduleConfig, TrainingConfig


def problems(scheduler: LrScheduler, *, warmup_steps: int = 0, rate: float = 1e-3, **schedule: Any) -> list[str]:
    training = TrainingConfig(
        lr_scheduler=scheduler, warmup_steps=warmup_steps, learning_rate=rate, schedule=ScheduleConfig(**schedule)
    )
    return [str(problem) for problem in check_schedule(training)]


def test_a_warm_up_is_said_once() -> None:
    [problem] = problems(LrScheduler.cosine, warmup_steps=5, warmup_ratio=0.1)
    assert "training.schedule.warmup_ratio=0.1" in problem
    assert "training.warmup_steps=5" in problem


@pytest.mark.parametrize("rate", [1e-3, 0.0])
def test_a_rate_falls_to_something_lower(rate: float) -> None:
    [problem] = problems(LrScheduler.polynomial, rate=rate, min_learning_rate=rate)
    assert f"training.schedule.min_learning_rate={rate}" in problem
    assert problems(LrScheduler.cosine, rate=rate, min_learning_rate=rate) == []  # not read: said elsewhere


def test_warm_up_and_decay_fit_into_the_training() -> None:
    [problem] = problems(LrScheduler.warmup_stable_decay, warmup_ratio=0.3, decay_ratio=0.8)
    assert "training.schedule.decay_ratio=0.8" in problem
    assert problems(LrScheduler.warmup_stable_decay, warmup_ratio=0.2, decay_ratio=0.8) == []


@pytest.mark.parametrize("scheduler", LrScheduler)
def test_the_defaults_fit_every_schedule(scheduler: LrScheduler) -> None:
    assert problems(scheduler) == []
