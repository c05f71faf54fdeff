"""An error is data for a program, and a sentence with a fix for a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.errors import (
    ConfigError,
    DataError,
    Detached,
    GateError,
    Preempted,
    Problem,
    SftError,
    StageError,
    StoreError,
    VerificationError,
)


def test_a_fix_and_a_log_are_lines_of_their_own() -> None:
    assert str(DataError("no rows")) == "no rows"
    assert str(DataError("no rows", fix="add some")) == "no rows\n  try: add some"
    error = StageError("it broke", fix="mend it", log=Path("log.txt"))
    assert str(error) == "it broke\n  try: mend it\n  log: log.txt"


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem(key="a", rule="is required"), "a: is required"),
        (Problem(key="a", rule="must be 1", value="2"), "a=2: must be 1"),
        (Problem(key="a", rule="must be 1", value="", suggestion="a=1"), "a=: must be 1; a=1"),
    ],
)
def test_a_problem_names_key_value_rule_and_suggestion(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_all_problems_stand_in_one_error() -> None:
    problems = [Problem(key="a", rule="is wrong"), Problem(key="b", rule="is wrong")]
    error = ConfigError(problems)
    assert error.problems == tuple(problems)
    assert str(error) == "configuration: 2 problems\n  - a: is wrong\n  - b: is wrong"
    assert str(VerificationError("run", ["a"])) == "run: 1 difference\n  - a"
    assert "misses 2 gates" in str(GateError(["a", "b"]))


def test_every_error_has_its_exit_code() -> None:
    codes = {
        SftError: 1,
        DataError: 1,
        StoreError: 1,
        StageError: 1,
        VerificationError: 1,
        ConfigError: 2,
        GateError: 3,
    }
    assert {kind: kind.exit_code for kind in codes} == codes
    assert (Preempted.exit_code, Detached.exit_code) == (75, 0)


def test_a_preempted_run_is_no_failure() -> None:
    """Else `except SftError` would count it among a sweep's failed points, and begin the next one."""
    assert not issubclass(Preempted, Exception)
