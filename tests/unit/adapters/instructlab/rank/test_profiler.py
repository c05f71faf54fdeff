"""A trace holds the steps that were asked for, and no others."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from sft.adapters.instructlab.layout import PROFILE
from sft.adapters.instructlab.rank.profiler import tracing
from sft.adapters.instructlab.settings import WorkerOptions
from sft.errors import StageError


def train(folder: Path, *, begin: int, end: int, first_step: int | None, num_steps: int, is_main: bool = True) -> None:
    """Make steps begin + 1 to end, the n-th of which is a sum of n rows."""
    options = WorkerOptions(profile_first_step=first_step, profile_num_steps=num_steps)
    with tracing(options, folder, 10, is_main) as profiler:
        profiler.reached(begin)
        for step in range(begin + 1, end + 1):
            torch.ones(step, 3).sum()
            profiler.reached(step)


def traced(folder: Path) -> list[int]:
    """Return the steps in a trace."""
    with gzip.open(folder / PROFILE, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    sums = [event["args"]["Input Dims"][0] for event in events if event.get("name") == "aten::sum"]
    return sorted({rows for rows, _ in sums})


@pytest.mark.parametrize(
    ("begin", "end", "first_step", "num_steps", "steps"),
    [(0, 10, 4, 2, [4, 5]), (0, 10, 1, 1, [1]), (0, 10, 9, 5, [9, 10]), (4, 10, 3, 4, [5, 6]), (4, 10, 5, 2, [5, 6])],
)
def test_the_steps_that_were_asked_for_are_traced(
    begin: int, end: int, first_step: int, num_steps: int, steps: list[int], tmp_path: Path
) -> None:
    train(tmp_path, begin=begin, end=end, first_step=first_step, num_steps=num_steps)
    assert traced(tmp_path) == steps
    assert [file.name for file in tmp_path.iterdir()] == [PROFILE]


@pytest.mark.parametrize(("first_step", "is_main", "begin"), [(None, True, 0), (2, False, 0), (2, True, 6)])
def test_nothing_is_traced_otherwise(first_step: int | None, is_main: bool, begin: int, tmp_path: Path) -> None:
    train(tmp_path, begin=begin, end=10, first_step=first_step, num_steps=2, is_main=is_main)
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_the_training_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"training\.profile\.first_step=11: the training has 10 steps"):
        train(tmp_path, begin=0, end=10, first_step=11, num_steps=1)
