"""What a registry answers, and a file as it is sent to one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import responses
from typing import BinaryIO

from sft.adapters.retry import retry_after_seconds
from sft.redaction import shortened

_SHOWN_CHARACTERS = 300


class CountingReader:
    """A file that reports how much of it is read."""

    def __init__(self, stream: BinaryIO, on_read: Callable[[int], None]) -> None:
        self._stream, self._on_read = stream, on_read

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self._on_read(len(content))
        return content


@dataclass(frozen=True)
class Answer:
    """An answer, with all of its content."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def asked_seconds(self) -> float:
        """The pause that the server asks for."""
        return retry_after_seconds(self.headers.get("Retry-After", ""))

    @property
    def why(self) -> str:
        """The first of its errors, as the specification spells them."""
        why = ""
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
            first = json.loads(self.content)["errors"][0]
            why = f"{first['code']}: {first['message']}" if first.get("message") else str(first["code"])
        return shortened(why, _SHOWN_CHARACTERS) or responses.get(self.status) or "no reason given"
