"""Owns the progress of an evaluation, in a file that its parent process reads."""

from __future__ import annotations

import time
from pathlib import Path

from sft.files import write_json

_WRITE_SECONDS = 0.2


class ProgressFile:
    """Counts samples, and collects notes.

    Args:
        state: The file.

    Attributes:
        notes: What a person should know at the end.
    """

    def __init__(self, state: Path) -> None:
        self.notes: list[str] = []
        self._state = state
        self._what, self._total, self._done_before, self._done = "", 0, 0, 0
        self._began = self._written = 0.0

    def begins(self, what: str, total: int, done: int = 0) -> None:
        """Start another count, of `total`, of which `done` were done before."""
        self._what, self._total, self._done_before, self._done = what, total, done, done
        self._began, self._written = time.monotonic(), 0.0
        self.add(0)

    def add(self, count: int) -> None:
        """Count more that are done."""
        self._done += count
        now = time.monotonic()
        if now - self._written < _WRITE_SECONDS:
            return
        self._written = now
        rate = (self._done - self._done_before) / max(now - self._began, 1e-9)
        speed = f", {rate:.1f} samples/s" if self._done > self._done_before else ""
        write_json(self._state, {"text": f"{self._what} {self._done}/{self._total}{speed}"})

    def note(self, text: str) -> None:
        """Add a note for the end."""
        self.notes.append(text)
