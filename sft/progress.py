"""Owns what a person watches while a run works: one line when a stage starts, one when it ends, and between them on a
terminal a live display with a bar, the rate and the time left. In a log file or a pipe the same facts come as plain
lines."""

from __future__ import annotations

import logging
import math
import re
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sft.logs import TOLD

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

_log = logging.getLogger(TOLD)
_PLAIN_EVERY_SECONDS = 10.0
_SHORTEST_SECONDS = 1.0
"""Over which a rate is told."""
_BAR = 20
_COUNT = re.compile(r"(?<![\d,.])(\d[\d,]*)/(\d[\d,]*)(?![\d.])")


def _reader_has_gone() -> None:
    """End a command whose reader has gone in the way of a plain print; rich would exit with status 1."""
    raise BrokenPipeError


class Pace:
    """How far a stage is, how fast, and how long it will take, from texts that say ``12/300`` somewhere."""

    def __init__(self) -> None:
        self.share: float | None = None
        self._what, self._first, self._rate, self._left = "", (0.0, 0), 0.0, 0

    def read(self, text: str) -> None:
        """Take in what the stage says now."""
        found = _COUNT.search(text)
        if found is None:
            self.share = None
            return
        done, total = (int(number.replace(",", "")) for number in found.groups())
        what, now = f"{text[: found.start()]} of {total}", time.monotonic()
        if what != self._what or done < self._first[1]:  # another part of the stage, which goes at another pace
            self._what, self._first = what, (now, done)
        seconds, more = now - self._first[0], done - self._first[1]
        self._rate = more / seconds if seconds >= _SHORTEST_SECONDS else 0.0
        self._left = total - done
        self.share = done / total if total else None

    @property
    def seconds_left(self) -> int | None:
        """Seconds that the stage takes from now; None where that is unknown."""
        return round(self._left / self._rate) if self.share is not None and self._rate else None

    def told(self, text: str) -> str:
        """Return rate and time left in words, as far as they are known and `text` does not say them itself."""
        if self.share is None or not self._rate or text.endswith(" left"):
            return ""
        left = self.seconds_left or 0
        rate = f"{self._rate:,.0f}" if self._rate >= 100 else f"{self._rate:.3g}"
        return f"{rate}/s, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


class _Stage:
    """What a live display shows of the stage at work: a bar, and what it says, wrapped between figures."""

    def __init__(self, title: str, pace: Pace) -> None:
        from rich.spinner import Spinner

        self.title, self.text, self.pace = title, "", pace
        self._spinner = Spinner("dots")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        width = options.max_width
        spinner = cast(Text, self._spinner.render(console.get_time()))
        head = Text.assemble(spinner, " ", (self.title, "bold"))
        if self.pace.share is not None and width - len(head.plain) >= _BAR + 8:
            filled = round(_BAR * self.pace.share)
            bar = (("━" * filled, "green"), ("━" * (_BAR - filled), "dim"))
            head = Text.assemble(head, "  ", *bar, f" {self.pace.share:4.0%}")
        lines = wrapped([self.text, self.pace.told(self.text)], width - len(head.plain) - 2, width - 4)
        if lines and len(lines[0]) <= width - len(head.plain) - 2:
            head = Text.assemble(head, "  ", lines.pop(0))
        yield head
        yield from (Text(f"    {line}", overflow="fold") for line in lines)


def wrapped(texts: Sequence[str], first_width: int, width: int) -> list[str]:
    """Return texts as lines that are broken between their parts, never inside of a figure.

    Args:
        texts: Each a list of parts with commas between them.
        first_width: Characters of the first line.
        width: Of the others.
    """
    lines: list[str] = []
    for part in ", ".join(filter(None, texts)).split(", "):
        if lines and len(lines[-1]) + 2 + len(part) <= (first_width if len(lines) == 1 else width):
            lines[-1] += f", {part}"
        elif part:
            lines.append(part)
    return lines


def _folded(text: str, width: float) -> list[str]:
    """Return the lines of a line that is too long; those after the first begin below its last column."""
    if len(text) <= width:
        return [text]
    columns = [match.end() for match in re.finditer(" {2,}", text) if match.end() <= width / 2]
    indent = " " * (columns[-1] if columns else 2)
    return textwrap.wrap(
        text, int(width), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )


class Progress:
    """One display for a whole run. Stages call `update`; the runner calls the rest.

    Attributes:
        notes: What `note` said.
        run: Folder of the run, once it is known.
    """

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
        self._stage: _Stage | None = None
        self._title, self._pace = "", Pace()
        self._last_plain, self._last_plain_at = "", 0.0
        self.notes: list[str] = []
        self.run: Path | None = None

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Hold what a command does; a program is told how it ended (`sft.progress_events`), a person sees it."""
        yield

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Show that `title` is at work until the block ends."""
        from rich.live import Live

        self._title, self._last_plain, self._last_plain_at = title, "", time.monotonic()
        self._pace = Pace()
        if self.console.is_terminal and not self.console.is_dumb_terminal and not self._label:
            self._stage = _Stage(title, self._pace)
            try:
                with Live(self._stage, console=self.console, refresh_per_second=8, transient=True):
                    yield
            finally:
                self._stage = None
        else:
            self.say(f"{title} …")
            yield

    def update(self, text: str) -> None:
        """Show what the stage at work is doing now: replaces the last text, or prints a plain line now and then.

        Where lines are printed, there is at most one in ten seconds, and none that says what the last one said.
        """
        if self._stage is not None:
            self._stage.text = text
        self._pace.read(text)
        if text != self._last_plain and time.monotonic() - self._last_plain_at >= _PLAIN_EVERY_SECONDS:
            self._last_plain, self._last_plain_at = text, time.monotonic()
            self._tell(text)

    def _tell(self, text: str) -> None:
        told = ", ".join(filter(None, [text, self._pace.told(text)]))
        if self._stage is None:
            self.say(f"  {self._title}: {told}")
        else:
            _log.info("%s: %s", self._title, told)

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

    def say_folded(self, text: str) -> None:
        """Print a line of columns that stays; on a terminal too narrow for it, as several: no word is cut."""
        width = self.console.width if self.console.is_terminal else math.inf
        self.say("\n".join(_folded(text, width)))
