"""Owns repeating what may succeed the next time, over tenacity. Each caller says what is repeated, and how long."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

_MAX_DOUBLINGS = 30


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often something is attempted, for how long, and with what pauses.

    Attributes:
        max_attempts: Failed attempts in a row after which it is given up; None = no limit.
        max_seconds: Seconds since the first attempt after which it is given up; None = no limit.
        first_wait_seconds: Longest pause after the first failed attempt; it doubles each time. The real pause is
            random, from half of it on, so that many processes don't come back at once. 0 = no pauses.
        longest_wait_seconds: Upper bound of every pause.
    """

    max_attempts: int | None = 4
    max_seconds: float | None = None
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 60.0

    def pause_seconds(self, num_failures: int, asked_for_seconds: float) -> float:
        """Return the pause after so many failures in a row, if the server asked for one of `asked_for_seconds`."""
        doubled = self.first_wait_seconds * 2.0 ** min(num_failures - 1, _MAX_DOUBLINGS)
        return min(self.longest_wait_seconds, max(doubled * random.uniform(0.5, 1.0), asked_for_seconds))

    def is_over(self, num_failures: int, elapsed_seconds: float) -> bool:
        """Return whether to give up."""
        too_often = self.max_attempts is not None and num_failures >= self.max_attempts
        return too_often or (self.max_seconds is not None and elapsed_seconds >= self.max_seconds)


class TemporaryError(Exception):
    """An attempt failed in a way that may pass.

    Attributes:
        retry_after_seconds: Pause that the server asked for.
    """

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


def retry_after_seconds(header: str) -> float:
    """Return the pause that a server asks for (RFC 9110, 10.2.3: seconds, or a date); 0 if it is none."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    return max(0.0, seconds)


class _Failures:
    """Counts failed attempts in a row; an attempt that got further than any before it is the first of a new row."""

    def __init__(self, progress: Callable[[], int]) -> None:
        self._progress = progress
        self._furthest = progress()
        self.count = 0

    def add(self, _state: RetryCallState) -> None:
        place = self._progress()
        self.count = 1 if place > self._furthest else self.count + 1
        self._furthest = max(self._furthest, place)


def retry(
    attempt: Callable[[], T],
    policy: RetryPolicy = RetryPolicy(),
    *,
    on: type[Exception] | tuple[type[Exception], ...] | Callable[[BaseException], bool] = TemporaryError,
    before_pause: Callable[[BaseException], None] = lambda _: None,
    progress: Callable[[], int] = lambda: 0,
    pause_of: Callable[[BaseException], float] = lambda error: getattr(error, "retry_after_seconds", 0.0),
) -> T:
    """Return what `attempt` returns, as soon as it does.

    Args:
        attempt: What may fail.
        policy: When it is given up.
        on: The exceptions that may pass: their types, or a function that tells. Any other is raised at once.
        before_pause: Called with each such exception that is followed by another attempt.
        progress: Returns how far the work is. An attempt that got further than all before it starts the count of
            failures anew.
        pause_of: Returns the pause in seconds that the server asked for with such an exception. What the policy's
            longest pause is, no server makes longer.

    Raises:
        Exception: The last one of `attempt`, when it is given up or could only come again.
    """
    import tenacity  # imports asyncio, for which no command should wait that asks nobody

    failures = _Failures(progress)

    def pause(state: RetryCallState) -> float:
        return policy.pause_seconds(failures.count, pause_of(_error(state)))

    is_type = isinstance(on, type | tuple)
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(on) if is_type else tenacity.retry_if_exception(on),  # type: ignore[arg-type]
        after=failures.add,
        wait=pause,
        stop=lambda state: policy.is_over(failures.count, state.seconds_since_start or 0.0),
        before_sleep=lambda state: before_pause(_error(state)),
        reraise=True,
    )
    return attempts(attempt)


def _error(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    assert error is not None  # an attempt that returned is not repeated
    return error
