"""Owns what a program reads while a run works: a JSON object per line on standard output, in place of a display."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sft.errors import INTERRUPTED, WAS_INTERRUPTED, ConfigError, Preempted, SftError
from sft.logs import TOLD
from sft.progress import Pace, Progress
from sft.redaction import redact

_log = logging.getLogger(TOLD)


class EventProgress(Progress):
    """A display for programs.

    Each line has ``time`` (UTC), ``event``, and ``stage``, the step at work or null. By ``event``:

    * ``stage``: a step begins.
    * ``progress``: its ``text`` now, ``share`` from 0 to 1 and ``seconds_left``, null where unknown; at most one in ten
      seconds, and only what is new.
    * ``said``: a ``text`` that stays.
    * ``end``, the last line: ``exit_code``, ``run`` (its folder, null before it is known), and of an error ``message``,
      ``fix`` and ``problems`` of the configuration.
    """

    def __init__(self) -> None:
        super().__init__(quiet=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Tell that `title` is at work until the block ends."""
        self._title, self._pace = title, Pace()
        self._last_plain, self._last_plain_at = "", float("-inf")
        _log.info("%s …", title)
        self._emit("stage")
        try:
            yield
        finally:
            self._title = ""

    def say(self, text: str) -> None:
        """Tell a text that stays."""
        super().say(text)
        self._emit("said", text=text.strip())

    def say_folded(self, text: str) -> None:
        """Tell a text that stays; columns are for people."""
        self.say(text)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Tell how the block ended, as the last line."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            if not isinstance(error, BrokenPipeError):  # else nobody reads this
                self._title = ""
                self._emit("end", **_told(error), run=None if self.run is None else str(self.run))

    def _tell(self, text: str) -> None:
        _log.info("%s: %s", self._title, text)
        self._emit("progress", text=text, share=self._pace.share, seconds_left=self._pace.seconds_left)

    def _emit(self, event: str, **facts: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, "stage": self._title or None}
        sys.stdout.write(json.dumps(_masked({**line, **facts}), ensure_ascii=False) + "\n")
        sys.stdout.flush()


def _told(error: BaseException | None) -> dict[str, Any]:
    """Return an error as data, with the status that the command exits with."""
    match error:
        case None:
            return {"exit_code": 0}
        case ConfigError():
            problems = [vars(problem) for problem in error.problems]
            return {"exit_code": error.exit_code, "message": error.message, "fix": error.fix, "problems": problems}
        case SftError():
            return {"exit_code": error.exit_code, "message": error.message, "fix": error.fix}
        case Preempted():
            return {"exit_code": error.exit_code, "message": str(error)}
        case KeyboardInterrupt():
            return {"exit_code": INTERRUPTED, "message": WAS_INTERRUPTED}
        case SystemExit():
            return {"exit_code": error.code}
        case _:
            return {"exit_code": 1, "message": f"{type(error).__name__}: {error}"}


def _masked(value: Any) -> Any:
    """Return data without secrets: in JSON one may be spelt in a way that a stream's mask doesn't know."""
    match value:
        case str():
            return redact(value)
        case dict():
            return {name: _masked(one) for name, one in value.items()}
        case list():
            return [_masked(one) for one in value]
        case _:
            return value
