"""Owns the one logging set-up and the redaction of secrets. Only the command line calls `configure`.

Does not own what a person watches while a run works: that is `sft.progress`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

_SECRET_NAME = re.compile(r"(token|secret|password|passwd|api_?key|access_?key|credential)", re.IGNORECASE)
_URI_USERINFO = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^/\s:@]+:[^/\s@]+@", re.IGNORECASE)
_AUTHORIZATION = re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic)?\s*)[^\s'\",]+", re.IGNORECASE)
MASK = "***"


def is_secret_name(name: str) -> bool:
    """Whether a key or an environment variable is named like a secret."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """Text without passwords in URIs, authorization headers, or the value of any secret-named variable."""
    text = _URI_USERINFO.sub(rf"\g<scheme>{MASK}@", text)
    text = _AUTHORIZATION.sub(rf"\1{MASK}", text)
    for name, value in os.environ.items():
        if len(value) >= 6 and is_secret_name(name) and value in text:
            text = text.replace(value, MASK)
    return text


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure(*, debug: bool) -> None:
    """Sends warnings (with `debug`, also everything of ours) to standard error, secrets masked."""
    root, ours = logging.getLogger(), logging.getLogger("sft")
    root.handlers[:] = [_to_stderr(logging.WARNING)]
    ours.handlers[:] = [_to_stderr(logging.DEBUG)] if debug else []
    ours.setLevel(logging.DEBUG if debug else logging.WARNING)
    ours.propagate = not debug


def _to_stderr(level: int) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level)
    handler.setFormatter(_Redacting("%(levelname)s %(name)s: %(message)s"))
    return handler


def complain(problem: object) -> None:
    """What went wrong, to standard error, secrets masked."""
    lead = "error: " if isinstance(problem, Exception) else "\n"
    sys.stderr.write(f"{lead}{redact(str(problem))}\n")


def to_file(path: Path) -> logging.Handler:
    """Appends every `sft` record at INFO and above to `path`; the caller closes the handler."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Redacting("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.INFO)
    logger = logging.getLogger("sft")
    logger.setLevel(min(logging.INFO, logger.level or logging.INFO))
    logger.addHandler(handler)
    return handler
