"""A time limit ends code that doesn't end by itself, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest

from sft.chat.time_limit import TimeLimitExceeded, time_limit


def loop_and_catch_every_exception() -> None:
    while True:
        with contextlib.suppress(Exception):
            sum(range(1000))


def test_code_that_catches_every_exception_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(TimeLimitExceeded), time_limit(0.2):
        loop_and_catch_every_exception()
    assert time.monotonic() - began < 5


def test_nothing_is_left_behind() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(60):
        pass
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
