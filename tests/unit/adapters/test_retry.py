"""Repeating: what may pass, as often as is said, and never what can only fail again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from sft.adapters.retry import RetryPolicy, TemporaryError, retry, retry_after_seconds

QUICK = RetryPolicy(max_attempts=3, first_wait_seconds=0.0)


def failing(*errors: BaseException) -> Callable[[], str]:
    """A function that raises these one after the other, and then returns."""
    waiting = list(errors)

    def attempt() -> str:
        if waiting:
            raise waiting.pop(0)
        return "done"

    return attempt


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, which take no time here."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def test_what_may_pass_is_attempted_until_it_has() -> None:
    assert retry(failing(TemporaryError("away"), TemporaryError("away")), QUICK) == "done"


def test_the_last_error_is_raised_when_it_is_given_up() -> None:
    with pytest.raises(TemporaryError, match="third"):
        retry(failing(TemporaryError("first"), TemporaryError("second"), TemporaryError("third")), QUICK)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_what_can_only_fail_again_is_raised_at_once(error: BaseException, pauses: list[float]) -> None:
    with pytest.raises(type(error)):
        retry(failing(error), QUICK, on=(TemporaryError, OSError))
    assert pauses == []


def test_a_function_may_tell_what_may_pass() -> None:
    errors = [OSError(500), OSError(404)]
    with pytest.raises(OSError, match="404"):
        retry(failing(*errors), QUICK, on=lambda error: error.args == (500,))


def test_an_attempt_that_only_repeats_what_was_lost_is_no_progress() -> None:
    arrived = iter([0, 5, 0, 5, 0, 5])
    with pytest.raises(TemporaryError):
        retry(failing(*(TemporaryError("starts over") for _ in range(9))), QUICK, progress=lambda: next(arrived))


def test_an_attempt_with_progress_starts_the_count_anew() -> None:
    arrived = iter([0, 1, 2, 3, 4])  # at first, and after each attempt
    attempt = failing(*(TemporaryError("broke off") for _ in range(4)))
    assert retry(attempt, RetryPolicy(max_attempts=2, first_wait_seconds=0.0), progress=lambda: next(arrived)) == "done"


def test_pauses_double_up_to_the_longest_and_are_random_in_their_upper_half(pauses: list[float]) -> None:
    policy = RetryPolicy(max_attempts=6, first_wait_seconds=1.0, longest_wait_seconds=6.0)
    retry(failing(*(TemporaryError("away") for _ in range(5))), policy)
    assert len(pauses) == 5
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, (1, 2, 4, 6, 6), strict=True))


def test_a_pause_that_the_server_asks_for_is_made_up_to_the_longest(pauses: list[float]) -> None:
    retry(failing(TemporaryError("busy", 7.0), TemporaryError("busy", 3600.0)), QUICK)
    assert pauses == [7.0, 60.0]


def test_time_ends_it_too() -> None:
    policy = RetryPolicy(max_attempts=None, max_seconds=0.05, first_wait_seconds=0.01)
    began = time.monotonic()
    with pytest.raises(TemporaryError):
        retry(failing(*(TemporaryError("away") for _ in range(1000))), policy)
    assert 0.05 <= time.monotonic() - began < 5


def test_each_pause_is_announced_with_its_error() -> None:
    messages: list[str] = []
    with pytest.raises(TemporaryError):
        retry(
            failing(*(TemporaryError(text) for text in "abc")),
            QUICK,
            before_pause=lambda error: messages.append(str(error)),
        )
    assert messages == ["a", "b"]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), (" 7 ", 7.0), ("-7", 0.0), ("7.5", 0.0), ("\xb2", 0.0), ("nan", 0.0), ("inf", 0.0), ("", 0.0)],
)
def test_a_server_asks_for_whole_seconds(header: str, seconds: float) -> None:
    assert retry_after_seconds(header) == seconds


def test_a_server_asks_for_a_date() -> None:
    assert retry_after_seconds("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0
    assert retry_after_seconds("Fri, 31 Dec 2099 23:59:59 GMT") > 1e9
    assert retry_after_seconds("Fri, 31 Dec 2099 23:59:59 -0000") > 1e9  # without a zone
    assert math.isfinite(retry_after_seconds("Fri, 31 Dec 9999 23:59:59 +9999"))


def test_a_caller_says_where_the_pause_stands(pauses: list[float]) -> None:
    retry(failing(OSError("5")), QUICK, on=OSError, pause_of=lambda error: float(str(error)))
    assert pauses == [5.0]
