"""Calls of others' code in a thread of their own: their order, what they raise, and one that never returns."""

from __future__ import annotations

import threading
import time

import pytest

from sft.adapters.call_queue import CallQueue
from sft.errors import StageError


def test_calls_are_made_in_order_in_one_other_thread() -> None:
    calls, made = CallQueue(60, "mend it"), list[tuple[int, int]]()
    for number in range(100):
        calls.put("a call", lambda number=number: made.append((number, threading.get_ident())))
    calls.finish()
    assert [number for number, _ in made] == list(range(100))
    assert len({thread for _, thread in made}) == 1
    assert made[0][1] != threading.get_ident()


def test_what_a_call_raises_is_raised_at_each_look_and_nothing_more_is_called() -> None:
    calls, made = CallQueue(60, "mend it"), list[str]()

    def fail() -> None:
        raise KeyError("x")

    calls.put("it", fail)
    calls.put("the next", lambda: made.append("the next"))
    for _ in range(2):
        with pytest.raises(KeyError):
            calls.finish()
    with pytest.raises(KeyError):
        calls.check()
    calls.leave(60)  # at once
    assert made == []


def test_a_call_that_does_not_return_is_named_and_waited_for_no_longer() -> None:
    calls, returns = CallQueue(0.1, "mend it"), threading.Event()
    calls.check()
    calls.put("callback pager: on_step", returns.wait)
    with pytest.raises(StageError, match=r"^callback pager: on_step has not returned for 0\.1 s") as caught:
        calls.finish()
    assert caught.value.fix == "mend it"
    began = time.monotonic()
    calls.leave(0.2)
    assert time.monotonic() - began >= 0.2
    returns.set()
