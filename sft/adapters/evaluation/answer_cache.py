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
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from sft.adapters.evaluation.progress_file import ProgressFile
from sft.adapters.evaluation.shares import ALONE, Share
from sft.errors import StageError

_BLOCK = 16
"""Requests of about one length that a process answers together; lm-eval makes batches of them."""
_LOOK_SECONDS = 0.1
_KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


class AnswerCache:
    """Answers by the digest of what was asked, in files of JSON lines. Memory holds where they are.

    Args:
        folder: The files'; made if it is not there.
        share: Which part of what is asked this process answers; it waits for the rest.
        are_others_at_work: Says whether the processes that answer the rest still work; raises if one has failed.

    Raises:
        StageError: A file is damaged.

    Attributes:
        num_kept: Answers that were there before, and were taken.
        num_new: Answers that were not.
    """

    def __init__(
        self, folder: Path, share: Share = ALONE, are_others_at_work: Callable[[], bool] = lambda: False
    ) -> None:
        self.num_kept = self.num_new = 0
        self.share = share
        self._is_server = False
        self._are_others_at_work = are_others_at_work
        self._folder = folder
        self._files: list[BinaryIO] = []
        self._paths: list[Path] = []
        self._ends: list[int] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._own: tuple[int, BinaryIO] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._read()

    def wait_for(self, keys: Iterable[bytes]) -> None:
        """Return once other processes have answered all of these.

        Raises:
            StageError: They ended without.
        """
        missing = {key for key in keys if key not in self}
        self.num_new += len(missing)
        while missing:
            at_work = self._are_others_at_work()
            time.sleep(_LOOK_SECONDS)
            self._read()
            missing -= self._places.keys()
            if missing and not at_work:
                raise StageError(f"the other processes of this evaluation ended without {len(missing)} answers")

    def _read(self) -> None:
        """Read what other processes have written since the last time."""
        for path in sorted(set(self._folder.glob("*.jsonl")).difference(self._paths)):
            self._append(path, path.open("rb"))
        for number, file in enumerate(self._files):
            if self._own is None or file is not self._own[1]:
                self._read_on(number, file)

    def _append(self, path: Path, file: BinaryIO) -> None:
        self._paths.append(path)
        self._files.append(file)
        self._ends.append(0)

    def _read_on(self, number: int, file: BinaryIO) -> None:
        begin = file.seek(self._ends[number])
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                self._places[bytes.fromhex(json.loads(line)[0])] = number, begin
            except (ValueError, LookupError, TypeError) as error:
                self.close()
                raise StageError(f"{file.name}: a line is no answer: {line[:80]!r}", fix=f"rm {file.name}") from error
            begin += len(line)
        self._ends[number] = begin

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
            path = self._folder / f"{secrets.token_hex(8)}.jsonl"
            self._own = len(self._files), path.open("a+b")
            self._append(path, self._own[1])
        number, file = self._own
        begin = file.seek(0, os.SEEK_END)
        file.write(json.dumps([key.hex(), answer], ensure_ascii=False).encode() + b"\n")
        file.flush()
        self._places[key] = number, begin

    def watch(self, model: Any, meter: ProgressFile, *, is_server: bool = False) -> None:
        """Make an lm-eval model return known answers, and keep the new ones, which it passes to its hook.

        Args:
            model: The model.
            meter: Counts answers.
            is_server: Whether it asks a server, which is told a temperature and nothing of `do_sample`.
        """
        self._is_server = is_server
        model.set_cache_hook(_Hook(self, meter))
        for kind in _KINDS:
            setattr(model, kind, self._cached(kind, getattr(model, kind), meter))

    def is_random(self, asked: Sequence[Any]) -> bool:
        """Return whether the same request may have another answer the next time."""
        return any(_is_sampled(part, is_server=self._is_server) for part in asked if isinstance(part, dict))

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _cached(self, kind: str, answer: Callable[..., list[Any]], meter: ProgressFile) -> Callable[..., list[Any]]:
        def ask(requests: Sequence[Any], *args: Any, **kwargs: Any) -> list[Any]:
            keys = [key_of(kind, *request.args) for request in requests]
            new = [place for place, key in enumerate(keys) if key not in self or self.is_random(requests[place].args)]
            self.num_kept += len(requests) - len(new)
            own = new if self.share.num == 1 else self._own_of(requests, new)
            meter.begins("requests", len(requests) - len(new) + len(own), len(requests) - len(new))
            answers = {}
            if own:
                answers = dict(zip(own, answer([requests[place] for place in own], *args, **kwargs), strict=True))
            self.wait_for(keys[place] for place in new if place not in answers)
            return [answers[place] if place in answers else _typed(self.get(key)) for place, key in enumerate(keys)]

        return ask

    def _own_of(self, requests: Sequence[Any], new: Sequence[int]) -> list[int]:
        """Return which new requests this process answers; those whose answers are random, all in each."""
        by_length = sorted(range(len(requests)), key=lambda place: -len(str(requests[place].args[:2])))
        blocks = [by_length[first : first + _BLOCK] for first in range(0, len(by_length), _BLOCK)]
        dealt = {*self.share.of(blocks)}
        return [place for place in new if place in dealt or self.is_random(requests[place].args)]


class _Hook:
    """What lm-eval tells of each answer."""

    def __init__(self, cache: AnswerCache, meter: ProgressFile) -> None:
        self._cache, self._meter = cache, meter

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        """Keep one answer; lm-eval calls this."""
        if not self._cache.is_random(request):
            self._cache.add(key_of(kind, *request), answer)
        self._meter.add(1)


def key_of(kind: str, *asked: Any) -> bytes:
    """Return the digest of what was asked."""
    return hashlib.blake2b(json.dumps([kind, *asked], default=str).encode(), digest_size=16).digest()


def _is_sampled(settings: Mapping[str, Any], *, is_server: bool) -> bool:
    """Return whether lm-eval has a text drawn: models/utils.py:728 and openai_completions.py:76@0.4.13."""
    is_warm = float(settings.get("temperature") or 0) > 0
    if is_server:
        return is_warm
    return is_warm if settings.get("do_sample") is None else bool(settings["do_sample"])


def _typed(answer: Any) -> Any:
    return tuple(answer) if isinstance(answer, list) else answer
