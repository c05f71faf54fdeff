"""Owns a model's answers to lm-eval's requests: after a kill, or with too little memory, none is asked for twice.

lm-eval's own cache commits each answer to SQLite twice, which costs more than the answer of a small model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sft.adapters.evaluation.progress_file import ProgressFile

_KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


class AnswerCache:
    """Answers by the digest of their request, in a file of JSON lines.

    Args:
        file: The file.
        meter: Counts the answers.
    """

    def __init__(self, file: Path, meter: ProgressFile) -> None:
        self._meter = meter
        self._known: dict[str, Any] = {}
        num_bytes = 0
        if file.exists():
            for line in file.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                self._known |= json.loads(line)
                num_bytes += len(line)
        self._file = file.open("ab")
        self._file.truncate(num_bytes)

    def watch(self, model: Any) -> None:
        """Make an lm-eval model return known answers, and keep the new ones, which it passes to its hook."""
        model.set_cache_hook(self)
        for kind in _KINDS:
            setattr(model, kind, self._cached(kind, getattr(model, kind)))

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        """Keep one answer; lm-eval calls this hook."""
        key = _key(kind, request)
        self._known[key] = answer
        self._file.write(json.dumps({key: answer}).encode() + b"\n")
        self._file.flush()
        self._meter.add(1)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _cached(self, kind: str, answer: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def ask(requests: Sequence[Any], *args: Any, **kwargs: Any) -> list[Any]:
            keys = [_key(kind, request.args) for request in requests]
            new = [place for place, key in enumerate(keys) if key not in self._known or _is_random(requests[place])]
            self._meter.begins("requests", len(requests), len(requests) - len(new))
            answers = {}
            if new:
                answers = dict(zip(new, answer([requests[place] for place in new], *args, **kwargs), strict=True))
            return [answers[place] if place in answers else _typed(self._known[key]) for place, key in enumerate(keys)]

        return ask


def _is_random(request: Any) -> bool:
    """Return whether the same request may have another answer the next time."""
    return any(isinstance(part, dict) and part.get("do_sample") for part in request.args)


def _typed(answer: Any) -> Any:
    return tuple(answer) if isinstance(answer, list) else answer


def _key(kind: str, request: Any) -> str:
    return hashlib.blake2b(json.dumps([kind, *request], default=str).encode(), digest_size=16).hexdigest()
