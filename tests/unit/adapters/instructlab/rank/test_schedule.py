"""Each learning rate against the closed formula of its schedule, and trainings that are too short for theirs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from sft.adapters.instructlab.rank.schedule import schedule
from sft.adapters.instructlab.settings import WorkerOptions
from sft.config.schema import LrScheduler
from sft.errors import StageError

pytestmark = pytest.mark.slow
PEAK, LOWEST, WARMUP, STEPS = 1e-2, 1e-3, 4, 20


def rates(name: str, *, warmup: int = WARMUP, num_steps: int = STEPS, **options: Any) -> list[float]:
    """The learning rate of each step."""
    import torch

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    made = schedule(name, optimizer, warmup, num_steps, WorkerOptions(**options))
    found = []
    for _ in range(num_steps):
        found.append(made.get_last_lr()[0])
        optimizer.step()
        made.step()
    return found


def done(step: int) -> float:
    """How much of the steps after the warm-up are over, 0 to 1."""
    return (step - WARMUP) / (STEPS - WARMUP)


def half_cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def stable_decay(step: int) -> float:
    """Whole until the last quarter, which is five steps, then half a cosine."""
    return LOWEST + (PEAK - LOWEST) * (1 if step < 15 else half_cosine((step - 15) / 5))


FORMULAS: dict[str, tuple[dict[str, Any], Callable[[int], float]]] = {
    "linear": ({}, lambda step: PEAK * (1 - done(step))),
    "cosine": ({}, lambda step: PEAK * half_cosine(done(step))),
    "cosine_with_restarts": ({"schedule_cycles": 4}, lambda step: PEAK * half_cosine((step - WARMUP) % 4 / 4)),
    "cosine_with_min_lr": (
        {"min_learning_rate": LOWEST},
        lambda step: LOWEST + (PEAK - LOWEST) * half_cosine(done(step)),
    ),
    "polynomial": (
        {"min_learning_rate": LOWEST, "schedule_power": 2.0},
        lambda step: LOWEST + (PEAK - LOWEST) * (1 - done(step)) ** 2,
    ),
    "constant_with_warmup": ({}, lambda _: PEAK),
    "warmup_stable_decay": ({"min_learning_rate": LOWEST, "decay_ratio": 0.25}, stable_decay),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_rate_follows_its_formula_after_a_linear_warm_up(name: str) -> None:
    options, after = FORMULAS[name]
    start = LOWEST if name == "warmup_stable_decay" else 0
    expected = [start + (PEAK - start) * step / WARMUP for step in range(WARMUP)]
    expected += [after(step) for step in range(WARMUP, STEPS)]
    assert rates(name, **options) == pytest.approx(expected, abs=1e-12)


def test_a_constant_rate_has_no_warm_up() -> None:
    assert rates("constant") == [PEAK] * STEPS
    assert FORMULAS.keys() | {"constant"} == {each.value for each in LrScheduler}


def test_a_polynomial_ends_at_nothing_unless_somebody_says_where() -> None:
    assert rates("polynomial")[-1] == pytest.approx(PEAK / (STEPS - WARMUP), abs=1e-12)


def test_a_ratio_is_a_part_of_all_steps_rounded_up() -> None:
    assert rates("linear", warmup=0, warmup_ratio=0.16) == rates("linear", warmup=4)


@pytest.mark.parametrize(
    ("name", "warmup", "options", "rule"),
    [
        ("cosine", STEPS, {}, "training.warmup_steps=20: the training has 20 steps"),
        ("cosine", 0, {"warmup_ratio": 0.99}, "training.schedule.warmup_ratio=0.99: the training has 20 steps"),
        ("polynomial", STEPS, {}, "never reaches its learning rate"),
        ("warmup_stable_decay", 19, {"decay_ratio": 0.1}, "are 19 and 2 steps, and the training has 20"),
    ],
)
def test_a_training_that_is_too_short_is_refused(name: str, warmup: int, options: dict[str, Any], rule: str) -> None:
    with pytest.raises(StageError, match=rule):
        rates(name, warmup=warmup, **options)


def test_a_training_of_one_step_needs_no_warm_up() -> None:
    assert rates("cosine", warmup=0, num_steps=1) == [PEAK]
