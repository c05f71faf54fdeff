"""Owns a model's answers: after a kill, with another limit, task or metric, none is asked for twice.

Whoever asks the same model under the same settings shares a folder. Each process reads all files in it and writes one
of its own, so that several may work at once; a torn line at a file's end is passed over. lm-eval's own cache commits
each answer to SQLite twice, which costs more than the answer of a small model.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from sft.adapters.evaluation.progress_file import ProgressFile
from sft.errors import StageError

_KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


class AnswerCache:
    """Answers by the digest of what was asked, in files of JSON lines. Memory holds where they are.

    Args:
        folder: The files'; made if it is not there.

    Raises:
        StageError: A file is damaged.

    Attributes:
        num_kept: Answers that were there before, and were taken.
        num_new: Answers that were not.
    """

    def __init__(self, folder: Path) -> None:
        self.num_kept = self.num_new = 0
        self._folder = folder
        self._files: list[BinaryIO] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._own: tuple[int, BinaryIO] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.jsonl")):
            self._read(path.open("rb"))

    def _read(self, file: BinaryIO) -> None:
        begin, number = 0, len(self._files)
        self._files.append(file)
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                self._places[bytes.fromhex(json.loads(line)[0])] = number, begin
            except (ValueError, LookupError, TypeError) as error:
                self.close()
                raise StageError(f"{file.name}: a line is no answer: {line[:80]!r}", fix=f"rm {file.name}") from error
            begin += len(line)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def get(self, key: bytes) -> Any:
        """Return an answer that is there."""
        number, begin = self._places[key]
        self._files[number].seek(begin)
        return json.loads(self._files[number].readline())[1]

    def add(self, key: bytes, answer: Any) -> None:
        """Keep an answer."""
        self.num_new += 1
        if self._own is None:
            self._own = len(self._files), (self._folder / f"{secrets.token_hex(8)}.jsonl").open("a+b")
            self._files.append(self._own[1])
        number, file = self._own
        begin = file.seek(0, os.SEEK_END)
        file.write(json.dumps([key.hex(), answer], ensure_ascii=False).encode() + b"\n")
        file.flush()
        self._places[key] = number, begin

    def watch(self, model: Any, meter: ProgressFile) -> None:
        """Make an lm-eval model return known answers, and keep the new ones, which it passes to its hook."""
        model.set_cache_hook(_Hook(self, meter))
        for kind in _KINDS:
            setattr(model, kind, self._cached(kind, getattr(model, kind), meter))

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _cached(self, kind: str, answer: Callable[..., list[Any]], meter: ProgressFile) -> Callable[..., list[Any]]:
        def ask(requests: Sequence[Any], *args: Any, **kwargs: Any) -> list[Any]:
            keys = [key_of(kind, *request.args) for request in requests]
            new = [place for place, key in enumerate(keys) if key not in self or _is_random(requests[place].args)]
            self.num_kept += len(requests) - len(new)
            meter.begins("requests", len(requests), len(requests) - len(new))
            answers = {}
            if new:
                answers = dict(zip(new, answer([requests[place] for place in new], *args, **kwargs), strict=True))
            return [answers[place] if place in answers else _typed(self.get(key)) for place, key in enumerate(keys)]

        return ask


class _Hook:
    """What lm-eval tells of each answer."""

    def __init__(self, cache: AnswerCache, meter: ProgressFile) -> None:
        self._cache, self._meter = cache, meter

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        """Keep one answer; lm-eval calls this."""
        if not _is_random(request):
            self._cache.add(key_of(kind, *request), answer)
        self._meter.add(1)


def key_of(kind: str, *asked: Any) -> bytes:
    """Return the digest of what was asked."""
    return hashlib.blake2b(json.dumps([kind, *asked], default=str).encode(), digest_size=16).digest()


def _is_random(asked: Sequence[Any]) -> bool:
    """Return whether the same request may have another answer the next time."""
    return any(isinstance(part, dict) and part.get("do_sample") for part in asked)


def _typed(answer: Any) -> Any:
    return tuple(answer) if isinstance(answer, list) else answer
