"""What can't be together with compiled layers."""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.compile_checks import check_compile
from sft.config.schema import Compile, FsdpConfig, TrainingConfig


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, []),
        ({"fsdp": FsdpConfig(version=1)}, ["training.fsdp.version=2"]),
        ({"deterministic": True}, ["training.deterministic=false"]),
        ({"context_parallel": 2}, ["training.context_parallel=1"]),
        ({"use_liger": True}, ["training.use_liger=false"]),
        ({"deterministic": True, "use_liger": True}, ["training.deterministic=false", "training.use_liger=false"]),
    ],
)
def test_what_can_not_be_together_is_refused_with_both_ways_out(settings: dict[str, Any], named: list[str]) -> None:
    problems = [*check_compile(TrainingConfig(compile=Compile.regional, **settings))]
    assert [problem.suggestion for problem in problems] == [f"try {way} or training.compile=none" for way in named]
    assert {problem.key for problem in problems} <= {"training.compile"}
    assert [*check_compile(TrainingConfig(**settings))] == []
