"""Owns telling callbacks of a training, from its parent process: the ranks' rows, as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sft.adapters.call_queue import CallQueue
from sft.adapters.callbacks import Callback
from sft.adapters.instructlab.layout import FINISHED, METRICS, RESUMED

_LONGEST_SECONDS = 600.0
"""What a callback may take for one call."""
_LEAVING_SECONDS = 5.0
"""How long a run that is asked to stop waits for its callbacks, of the 30 s that Kubernetes gives a pod."""


class TrainingCallbacks:
    """Tells callbacks of the steps of one training, in a thread of their own: the training is watched meanwhile.

    Args:
        callbacks: To be told.
        logs: Folder in which the ranks write.
    """

    def __init__(self, callbacks: Sequence[Callback], logs: Path) -> None:
        self._callbacks = callbacks
        self._logs = logs
        self._last: dict[str, Any] | None = None
        self._step = 0
        fix = "mend the package, or leave it out of training.callbacks; the training continues from its last full state"
        self._calls = CallQueue(_LONGEST_SECONDS, fix)
        self.begin()

    def begin(self) -> None:
        """Expect ranks that are started now, who write the rows of their steps anew where they resume."""
        self._size, self._knows_start = 0, False

    def poll(self) -> None:
        """Tell of each step that is new, and of each epoch that has ended before one.

        Raises:
            StageError: A callback failed, or has not returned.
        """
        self._calls.check()
        if self._callbacks:
            self._tell_steps()

    def _tell_steps(self) -> None:
        for row in self._new_rows():
            if self._last is not None and row["epoch"] != self._last["epoch"]:
                self._tell("on_epoch", self._last["epoch"], self._last)
            self._last, self._step = row, row["step"]
            self._tell("on_step", row)

    def end(self) -> None:
        """Tell of the last steps and the last epoch, and that the training has ended; return when all were told.

        Raises:
            StageError: A callback failed, or has not returned.
        """
        if not self._callbacks:
            return
        self.poll()
        if self._last is not None:
            self._tell("on_epoch", self._last["epoch"], self._last)
        self._tell("on_end", json.loads((self._logs / FINISHED).read_text(encoding="utf-8")))
        self._calls.finish()

    def leave(self) -> None:
        """Tell of the last steps of ranks that have stopped before the end, and wait a moment for the callbacks.

        Whoever goes on tells only of what comes after the full state.
        """
        if self._knows_start:
            self._tell_steps()
        self._calls.leave(_LEAVING_SECONDS)

    def _tell(self, method: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            own = json.loads(json.dumps(arguments))  # each has a copy
            self._calls.put(f"callback {callback.name}: {method}", partial(callback.call, method, *own))

    def _new_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the whole rows of steps that nobody was told of."""
        if not self._knows_start:  # what was made before the ranks were started was told by who watched then
            start = json.loads((self._logs / RESUMED).read_text(encoding="utf-8"))
            self._step, self._knows_start = max(self._step, start["step"]), True
        with (self._logs / METRICS).open("rb") as file:
            file.seek(self._size)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._size += len(whole)
        for line in whole.splitlines():
            row = json.loads(line)
            if row["step"] > self._step:
                yield row
            elif row["step"] == self._step and self._last is None:
                self._last = row  # its step was told by who watched then; that its epoch has ended perhaps not
