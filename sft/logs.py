"""Owns the one logging set-up, and streams that print no secrets. Only the command line calls `configure`.

Does not own what a person watches while a run works: that is `sft.progress`.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from sft import known_secrets
from sft.known_secrets import secrets_of_addresses
from sft.redaction import redact

TOLD = "sft.told"
"""Logger of what a person is shown anyway: for a run's log alone."""
_LONGEST_HELD = 1 << 16
_told: set[str] = set()


def remember(*secrets: str, whose: str = "a login") -> None:
    """Mask these from now on: what was read from a login, a server or a file.

    Args:
        secrets: The texts.
        whose: What a person would look for, to change one that can't be masked.
    """
    known_secrets.add(secrets, whose)
    warn_of_unmasked()


def learn(tree: object) -> None:
    """Mask from now on what the addresses in a tree of settings hold, also where a server repeats it."""
    match tree:
        case str():
            if found := list(secrets_of_addresses(tree)):
                remember(*found, whose=f"a password in {redact(tree)}")
        case dict():
            for value in tree.values():
                learn(value)
        case list():
            for value in tree:
                learn(value)


def warn_of_unmasked() -> None:
    """Name on standard error, once, each secret that is not masked because records would be damaged by it."""
    for whose, why in known_secrets.unmasked().items():
        if whose not in _told:
            _told.add(whose)
            sys.stderr.write(f"warning: {whose} {why}: it is not masked in what is printed and recorded; change it\n")


def longest_secret() -> int:
    """Return how many characters the longest text has that is masked."""
    return max(map(len, known_secrets.known()), default=0)


class _MaskingBytes:
    """A stream of bytes that masks secrets in what is written to it, each line as a whole."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Begin anew: in a child of a fork, where the parent prints what it holds and may have printed just then."""
        self._held = b""
        self._lock = threading.RLock()

    def write(self, content: bytes) -> int:
        with self._lock:
            self._held += bytes(content)
            self._release(_whole(self._held, (b"\n", b"\r")))
        return len(content)

    def writelines(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._lock:
            self._release(len(self._held))
            self._stream.flush()

    def _release(self, length: int) -> None:
        whole, self._held = self._held[:length], self._held[length:]
        if whole:
            text = redact(whole.decode("utf-8", errors="surrogateescape"))
            self._stream.write(text.encode("utf-8", errors="surrogateescape"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Masking:
    """A text stream that masks secrets in what is written to it, each line as a whole.

    A line is held until it ends, or `flush`: a secret may be written in two parts.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bytes: _MaskingBytes | None = None
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Begin anew: in a child of a fork, where the parent prints what it holds and may have printed just then."""
        self._held = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        with self._lock:
            self._held += text
            self._release(_whole(self._held, ("\n", "\r")))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._lock:
            self._release(len(self._held))
            if self._bytes:
                self._bytes.flush()
            self._stream.flush()

    def _release(self, length: int) -> None:
        whole, self._held = self._held[:length], self._held[length:]
        if whole:
            self._stream.write(redact(whole))

    @property
    def buffer(self) -> _MaskingBytes:
        with self._lock:
            self._release(len(self._held))
            self._stream.flush()
        self._bytes = self._bytes or _MaskingBytes(self._stream.buffer)
        return self._bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _whole(held: Any, ends: Sequence[Any]) -> int:
    """Return how much of what is held are whole lines; all of it if it is too long to be held."""
    return len(held) if len(held) > _LONGEST_HELD else max(held.rfind(end) for end in ends) + 1


def mask_streams() -> None:
    """Mask secrets in all that this process prints from here on, whatever library prints it.

    A character that the terminal's encoding lacks is printed as an escape, as Python does on standard error.
    """
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), _Masking):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, _Masking(stream))


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure(*, debug: bool) -> None:
    """Send others' warnings to standard error, with `debug` all of ours too; masks secrets in all that is said.

    What ours would say without `debug`, a person is told in other words; a run's log has it.
    """
    mask_streams()
    warn_of_unmasked()
    root, ours = logging.getLogger(), logging.getLogger("sft")
    root.handlers[:] = [_to_stderr(logging.WARNING)]
    ours.handlers[:] = [_to_stderr(logging.DEBUG) if debug else logging.NullHandler()]
    ours.handlers[0].addFilter(lambda record: record.name != TOLD)
    ours.setLevel(logging.DEBUG if debug else logging.WARNING)
    ours.propagate = False


def _to_stderr(level: int) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level)
    handler.setFormatter(_Redacting("%(levelname)s %(name)s: %(message)s"))
    return handler


def print_error(problem: object) -> None:
    """Print what went wrong to standard error."""
    lead = "error: " if isinstance(problem, Exception) else "\n"
    sys.stderr.write(f"{lead}{problem}\n")


class _RunLog(logging.FileHandler):
    """A log that a run goes on without, if it can't be written."""

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        del record
        if not self._has_failed:
            self._has_failed = True
            print_error(f"warning: {self.baseFilename} is not complete: {sys.exc_info()[1]}")


def to_file(path: Path) -> logging.Handler:
    """Append every `sft` record at INFO and above to `path`; the caller closes the handler."""
    handler = _RunLog(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Redacting("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.INFO)
    logger = logging.getLogger("sft")
    logger.setLevel(min(logging.INFO, logger.level or logging.INFO))
    logger.addHandler(handler)
    return handler
