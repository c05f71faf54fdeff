"""Owns the progress of an evaluation, in a file that its parent process reads."""

from __future__ import annotations

import time
from pathlib import Path

from sft.files import write_json

_WRITE_SECONDS = 0.2
_MINUTE, _HOUR = 60, 3600


class ProgressFile:
    """Counts samples and tokens, and collects notes.

    Args:
        state: The file: ``text`` is what a person watches.

    Attributes:
        notes: What a person should know at the end.
    """

    def __init__(self, state: Path) -> None:
        self.notes: list[str] = []
        self._state = state
        self._what, self._total, self._done_before, self._done, self._tokens = "", 0, 0, 0, 0
        self._began = self._written = 0.0

    def begins(self, what: str, total: int, done: int = 0) -> None:
        """Start another count, of `total`, of which `done` were done before."""
        self._what, self._total, self._done_before, self._done, self._tokens = what, total, done, done, 0
        self._began, self._written = time.monotonic(), 0.0
        self.add(0)

    def add(self, count: int, num_tokens: int = 0) -> None:
        """Count more that are done, and tokens that the model has read or written."""
        self._done += count
        self._tokens += num_tokens
        now = time.monotonic()
        if now - self._written >= _WRITE_SECONDS or self._done == self._total:
            self._written = now
            write_json(self._state, {"text": self._text(now - self._began)})

    def note(self, text: str) -> None:
        """Add a note for the end."""
        self.notes.append(text)

    def _text(self, seconds: float) -> str:
        parts = [f"{self._what} {self._done:,}/{self._total:,}"]
        if self._tokens:
            parts.append(f"{self._tokens:,} tokens")
        done_now = self._done - self._done_before
        if done_now and seconds > 0:
            rate = done_now / seconds
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{_duration(1 / rate)} each")
            if self._done < self._total:
                parts.append(f"{_duration(seconds / done_now * (self._total - self._done))} left")
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.1f} h"
