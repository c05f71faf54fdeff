"""Owns what a person watches while a run works: one line when a stage starts, one when it ends, and a live
count between them on a terminal. In a log file or a pipe the same facts come as plain lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sft.logs import TOLD

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.status import Status

_log = logging.getLogger(TOLD)
_PLAIN_EVERY_SECONDS = 10.0


def _reader_has_gone() -> None:
    """End a command whose reader has gone in the way of a plain print; rich would exit with status 1."""
    raise BrokenPipeError


def _live(title: str, text: str = "") -> RenderableType:
    """Return what a live display shows, in which nothing is markup or the name of an emoji."""
    from rich.text import Text

    return Text.assemble((title, "bold"), text)


class Progress:
    """One display for a whole run. Stages call `update`; the runner calls the rest."""

    def __init__(self, *, quiet: bool = False, label: str = "") -> None:
        """Make a display.

        Args:
            quiet: Says nothing.
            label: Leads each line, where several runs share the output; then there is no live count.
        """
        from rich.console import Console

        self.console: Console = Console(quiet=quiet, highlight=False, soft_wrap=True, emoji=False)
        self.console.on_broken_pipe = _reader_has_gone  # type: ignore[method-assign]
        self._label = label
        self._status: Status | None = None
        self._title = ""
        self._last_plain, self._last_plain_at = "", 0.0
        self.notes: list[str] = []

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Show that `title` is at work until the block ends."""
        self._title, self._last_plain, self._last_plain_at = title, "", time.monotonic()
        if self.console.is_terminal and not self._label:
            with self.console.status(_live(title)) as self._status:
                yield
            self._status = None
        else:
            self.say(f"{title} …")
            yield

    def update(self, text: str) -> None:
        """Show what the stage at work is doing now: replaces the last text, or prints a plain line now and then.

        Where lines are printed, there is at most one in ten seconds, and none that says what the last one said.
        """
        if self._status is not None:
            self._status.update(_live(self._title, f"  {text}"))
        if text != self._last_plain and time.monotonic() - self._last_plain_at >= _PLAIN_EVERY_SECONDS:
            self._last_plain, self._last_plain_at = text, time.monotonic()
            if self._status is None:
                self.say(f"  {self._title}: {text}")
            else:
                _log.info("%s: %s", self._title, text)

    def note(self, text: str) -> None:
        """Say what a person should know of the data; ``sft data check`` shows `notes` in the same words."""
        self.notes.append(text)
        self.say(f"  {text}")

    def say(self, text: str) -> None:
        """Print one line that stays."""
        _log.info("%s", text.strip("\n"))
        if self._label:
            text = "\n".join(f"{self._label} {line}" for line in text.strip("\n").splitlines())
        self.console.print(text, markup=False)
