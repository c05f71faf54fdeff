"""How far an evaluation is, in a file that its parent reads."""

from __future__ import annotations

import time
from pathlib import Path

from sft.files import write_json

_SECONDS = 0.2
"""Between two states that are written."""


class ProgressFile:
    """Counts samples, and keeps what is worth telling.

    Args:
        state: The file.

    Attributes:
        notes: What the person should know when it is over.
    """

    def __init__(self, state: Path) -> None:
        self.notes: list[str] = []
        self._state = state
        self._what, self._total, self._had, self._done = "", 0, 0, 0
        self._began = self._written = 0.0

    def begins(self, what: str, total: int, done: int = 0) -> None:
        """Another count: of `total`, `done` were there before."""
        self._what, self._total, self._had, self._done = what, total, done, done
        self._began, self._written = time.monotonic(), 0.0
        self.add(0)

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now = time.monotonic()
        if now - self._written < _SECONDS:
            return
        self._written = now
        rate = (self._done - self._had) / max(now - self._began, 1e-9)
        speed = f", {rate:.1f} samples/s" if self._done > self._had else ""
        write_json(self._state, {"text": f"{self._what} {self._done}/{self._total}{speed}"})

    def note(self, text: str) -> None:
        """To be told at the end."""
        self.notes.append(text)
