"""The error tree, as data: what was wrong, where, and what to do about it.

A person sees `str(error)`; a program reads the attributes. Anything that is not an `SftError` is a bug in
`sft` and keeps its traceback.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sft.redaction import redact

INTERRUPTED, WAS_INTERRUPTED = 130, "interrupted; the same command continues"
"""What the command line exits with after Ctrl-C (128 and the signal's number), and what it says."""
_LONGEST_SHOWN = 200
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
"""Categories of Unicode: control characters, halves of a pair, separators of lines and paragraphs."""


class SftError(Exception):
    """Base of everything `sft` raises on purpose.

    Attributes:
        message: What happened, one or a few lines.
        fix: What to try, or None where only the person can know.
        exit_code: What the command line exits with.
    """

    exit_code = 1

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  try: {self.fix}" if self.fix else self.message


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a configuration.

    Attributes:
        key: Dotted key as a person would type it (`training.learning_rate`), or a file's name.
        value: The refused value as text; None where a value is missing.
        rule: What must hold.
        suggestion: The nearest valid key or value, or a command; None where there is none.
    """

    key: str
    rule: str
    value: str | None = None
    suggestion: str | None = None

    def __str__(self) -> str:
        what = _shown(self.key) if self.value is None else f"{_shown(self.key)}={_shown(self.value)}"
        tail = f"; {self.suggestion}" if self.suggestion else ""
        return f"{what}: {self.rule}{tail}"


def _shown(text: str) -> str:
    """Return what a person typed in one line for a terminal: not all of a long text, and no control character."""
    text = redact(text)  # before it is cut: half a secret would not be known as one
    short = text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN // 2]}… ({len(text)} characters)"
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSEEN else c for c in short)


class ConfigError(SftError):
    """The configuration is wrong. Raised once, with every problem, before anything runs."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"configuration: {count}", *(f"  - {p}" for p in problems)]))


class DataError(SftError):
    """The data is wrong: the message names file, line and rule."""


class StoreError(SftError):
    """The artifact store can't be read or written."""


class VerificationError(SftError):
    """Something is not what its record says.

    Attributes:
        problems: Each difference, in a line.
    """

    def __init__(self, what: str, problems: list[str]) -> None:
        self.problems = tuple(problems)
        count = "1 difference" if len(problems) == 1 else f"{len(problems)} differences"
        super().__init__("\n".join([f"{what}: {count}", *(f"  - {p}" for p in problems)]))


class StageError(SftError):
    """A stage failed; earlier stages stay done.

    Attributes:
        log: The full log of the part that failed, where it has one.
    """

    def __init__(self, message: str, *, fix: str | None = None, log: Path | None = None) -> None:
        super().__init__(message, fix=fix)
        self.log = log

    def __str__(self) -> str:
        return f"{super().__str__()}\n  log: {self.log}" if self.log else super().__str__()


class GateError(SftError):
    """A model misses a gate: the tuned one, which is neither packaged nor registered, or what was exported of it.

    Attributes:
        missed: A line for each.
    """

    exit_code = 3

    def __init__(
        self,
        missed: Sequence[str],
        *,
        what: str = "the tuned model",
        so: str = "so it is not registered",
        fix: str | None = None,
    ) -> None:
        self.missed = tuple(missed)
        count = "1 gate" if len(missed) == 1 else f"{len(missed)} gates"
        lines = "\n".join(f"  - {line}" for line in missed)
        super().__init__(f"{what} misses {count} (eval.gates), {so}\n{lines}", fix=fix)


class Preempted(KeyboardInterrupt):
    """The run was asked to stop and has saved its state: not a failure, and no other run of a sweep is begun.

    Attributes:
        exit_code: ``EX_TEMPFAIL`` of sysexits.h: try again.
    """

    exit_code = 75


class Detached(Preempted):
    """The run was told to leave its training to the cluster: nothing failed, and the rest of it is for later.

    Attributes:
        exit_code: 0, as this is what was asked for.
    """

    exit_code = 0
