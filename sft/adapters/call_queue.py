"""Owns calls of others' code that must not hold up who asks for them: in a thread of their own, one after the other.

Nobody waits for the thread when the process ends, since a call of others' may never return.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Queue

from sft.errors import StageError

_LOOK_SECONDS = 0.05


class CallQueue:
    """Calls that are waiting, and the one at work. Who asks for them is told here of what they raise.

    Args:
        longest_seconds: What one call may take.
        fix: What to do about one that takes longer.
    """

    def __init__(self, longest_seconds: float, fix: str) -> None:
        self._longest_seconds = longest_seconds
        self._fix = fix
        self._waiting: Queue[tuple[str, Callable[[], object]]] = Queue()
        self._at_work: tuple[str, float] | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def put(self, name: str, call: Callable[[], object]) -> None:
        """Have something called after all that was put before; nothing more is once a call has failed.

        Args:
            name: What is called, for messages.
            call: Takes nothing, and what it returns is dropped.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="callbacks", daemon=True)
            self._thread.start()
        self._waiting.put((name, call))

    def check(self) -> None:
        """Raise what a call has raised, or that one takes too long.

        Raises:
            StageError: A call has not returned in time.
        """
        if self._error is not None:
            raise self._error
        if (at_work := self._at_work) is not None and time.monotonic() - at_work[1] > self._longest_seconds:
            raise StageError(f"{at_work[0]} has not returned for {self._longest_seconds:g} s", fix=self._fix)

    def finish(self) -> None:
        """Wait until all has been called.

        Raises:
            StageError: A call has not returned in time.
        """
        while self._waiting.unfinished_tasks and self._error is None:
            self.check()
            time.sleep(_LOOK_SECONDS)
        self.check()

    def leave(self, seconds: float) -> None:
        """Wait that long at most for what is still to be called, and for nothing that it raises."""
        end = time.monotonic() + seconds
        while self._waiting.unfinished_tasks and self._error is None and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)

    def _work(self) -> None:
        while self._error is None:
            name, call = self._waiting.get()
            self._at_work = (name, time.monotonic())
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - it is raised where the caller looks
                self._error = error
            self._at_work = None
            self._waiting.task_done()
