"""Token ids and loss masks of the training split, as the library reads them, and the same rules for the held-out split.

A child process: ``python -m sft.adapters.instructlab.loss_masks``.

In the place of the library's `process_data`, whose `filter_samples_by_length` drops rows of fewer than 20 or of
`max_seq_len` and more tokens in silence (trap 1, data_process.py:1067@0.16.2). Here such a row is kept or refused.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from sft.adapters.os import child
from sft.adapters.os.cgroup import num_cpus
from sft.chat.loss import NO_LOSS, Row, TrainOn, rows, trained
from sft.chat.special_tokens import find_special_token, special_tokens, stops
from sft.chat.template import SYSTEM_ROLES, Renderer, TemplateError
from sft.chat.turn_tokens import TurnFinder
from sft.chat.unrendered import unrendered
from sft.errors import DataError

UNRENDERED = "unrendered"
_SHOWN_CHARACTERS = 50
_PART_BYTES = 4 << 20
"""A file is shared among processes in parts of at least this size; a smaller one isn't worth another process."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What determines tokens and labels besides the rows.

    Attributes:
        model_dir: The model's folder, with its tokenizer and chat template.
        max_seq_len: A sequence of so many tokens or more is refused.
        keep_unrendered: Whether a row is kept of which the template doesn't render all.
    """

    model_dir: str
    max_seq_len: int
    train_on: TrainOn = "all_turns"
    train_on_reasoning: bool = True
    keep_unrendered: bool = False


@dataclass(frozen=True)
class _Part:
    """Lines of a file from one byte to another, and where their tokens go."""

    file: Path
    begin: int
    end: int
    target: Path
    settings: Settings

    @property
    def rejected(self) -> Path:
        return self.target.with_name(f"{self.target.name}.rejected")


@dataclass
class _Counts:
    """What a part holds. Rejected rows lie in ``<target>.rejected``, their lines counted within the part.

    Attributes:
        num_rows: Rows that are trained, each as one sample or more.
        num_folded: Rows whose system turn was put before the first user's text.
        unrendered: Kept rows with a field that the template doesn't render, by field.
        examples: One of them each.
    """

    num_rows: int = 0
    num_samples: int = 0
    num_rejected: int = 0
    num_tokens: int = 0
    num_loss_tokens: int = 0
    longest_tokens: int = 0
    num_folded: int = 0
    unrendered: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, other: _Counts) -> None:
        """Add the counts of a later part."""
        for name, value in asdict(other).items():
            if isinstance(value, int) and name != "longest_tokens":
                setattr(self, name, getattr(self, name) + value)
        self.longest_tokens = max(self.longest_tokens, other.longest_tokens)
        for kind, count in other.unrendered.items():
            self.unrendered[kind] = self.unrendered.get(kind, 0) + count
            self.examples.setdefault(kind, other.examples[kind])


class _Refused(Exception):
    """A row can't be trained: its rule, what was found, and its tokens as far as they were counted."""

    def __init__(self, rule: str, found: str, num_tokens: int = 0) -> None:
        super().__init__(rule)
        self.rule, self.found, self.num_tokens = rule, found, num_tokens


def _tokenize(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child. Request: ``train_file``, ``eval_file`` (None = no such split), ``target``, ``rejected``, ``settings``.

    Return the counts of both splits. ``rejected`` gets a line per rejected row, those of the training split first. The
    tokens of the held-out split are not kept: each of its turns is scored, whatever is trained.
    """
    target, settings = Path(request["target"]), Settings(**request["settings"])
    scored = replace(settings, train_on="all_turns", train_on_reasoning=True)
    splits = {
        "train": _parts(request["train_file"], target, settings),
        "eval": _parts(request["eval_file"], target.with_name(f"{target.name}.eval"), scored),
    }
    counts = iter(_tokenize_parts([part for parts in splits.values() for part in parts]))
    result = {}
    with Path(request["rejected"]).open("wb") as rejected:
        for split, parts in splits.items():
            with (target if split == "train" else Path(os.devnull)).open("wb") as tokens:
                result[split] = asdict(_join(list(zip(parts, counts, strict=False)), tokens, rejected))
    return result


def _parts(name: str | None, target: Path, settings: Settings) -> list[_Part]:
    if name is None:
        return []
    file = Path(name)
    return [
        _Part(file, begin, end, target.with_name(f"{target.name}.{begin}"), settings)
        for begin, end in _ranges(file, num_cpus())
    ]


def _tokenize_parts(parts: Sequence[_Part]) -> list[_Counts]:
    """Tokenize all parts, in processes of their own where a file has more than one part."""
    if len(parts) == len({part.file for part in parts}):
        return [_tokenize_part(part) for part in parts]
    os.environ[child.PARENT_PID] = str(os.getpid())
    num_processes = min(len(parts), num_cpus())
    fork = multiprocessing.get_context("fork")  # safe: nothing that starts threads is imported yet
    with ProcessPoolExecutor(num_processes, fork, initializer=child.die_with_parent) as pool:
        return list(pool.map(_tokenize_part, parts))


def _join(parts: Sequence[tuple[_Part, _Counts]], tokens: BinaryIO, rejected: BinaryIO) -> _Counts:
    """Put the parts of one file together and return the sum of their counts."""
    whole = _Counts()
    for part, counts in parts:
        _append(part, tokens, rejected, before=whole.num_rows + whole.num_rejected)
        whole.add(counts)
    return whole


def _append(part: _Part, joined: BinaryIO, refused: BinaryIO, *, before: int) -> None:
    """Append what a part wrote; `before` is how many lines of the file come before it."""
    with part.target.open("rb") as piece:
        shutil.copyfileobj(piece, joined, 1 << 20)
    with part.rejected.open("rb") as piece:
        for line in piece:
            row = msgspec.json.decode(line)
            row["line"] += before
            refused.write(msgspec.json.encode(row) + b"\n")
    part.target.unlink()
    part.rejected.unlink()


def _ranges(file: Path, num_processes: int) -> list[tuple[int, int]]:
    """Return byte ranges that begin and end at line ends, one per process."""
    size = file.stat().st_size
    num_parts = max(1, min(num_processes, size // _PART_BYTES))
    cuts = [0]
    with file.open("rb") as stream:
        for part in range(1, num_parts):
            stream.seek(size * part // num_parts)
            stream.readline()
            cuts.append(stream.tell())
    ends = [*cuts[1:], size]
    return [(begin, end) for begin, end in zip(cuts, ends, strict=True) if begin < end]


def renderer(model_dir: str) -> Renderer:
    """Return the tokenizer of a model folder, with the tokens at which the model stops.

    Raises:
        DataError: It has no fast version, or its template doesn't end in time.
    """
    from transformers import AutoTokenizer

    trust = os.environ.get("TRUST_REMOTE_CODE") == "1"
    tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust)
    if not tokenizer.is_fast:
        raise DataError(
            f"{model_dir}: its tokenizer has no fast version, so it is not known which characters a token covers",
            fix="take a model with a tokenizer.json",
        )
    return Renderer(tokenizer, stops(tokenizer, Path(model_dir)))


def _tokenize_part(part: _Part) -> _Counts:
    tokenizing = _Tokenizing(part.settings)
    counts = tokenizing.counts
    with part.file.open("rb") as lines, part.target.open("wb") as target, part.rejected.open("wb") as rejected:
        lines.seek(part.begin)
        while lines.tell() < part.end:
            line = lines.readline()
            sample = msgspec.json.decode(line)
            try:
                sequences = tokenizing.rows(sample)
            except _Refused as refused:
                counts.num_rejected += 1
                counts.longest_tokens = max(counts.longest_tokens, refused.num_tokens)
                begins = json.dumps(sample["messages"][0]["content"][:_SHOWN_CHARACTERS], ensure_ascii=False)
                found = f"{refused.found}, where it begins {begins}"
                number = counts.num_rows + counts.num_rejected
                facts = {"file": str(part.file), "line": number, "rule": refused.rule, "found": found}
                rejected.write(msgspec.json.encode({**facts, "row": line.decode().rstrip("\n")}) + b"\n")
                continue
            tokenizing.count(sample, sequences)
            target.writelines(msgspec.json.encode(row) + b"\n" for row in sequences)
    return counts


class _Tokenizing:
    """A tokenizer at work on rows, and the counts of what it has done."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._renderer = renderer(settings.model_dir)
        self._finder = TurnFinder(self._renderer)
        self._special = special_tokens(self._renderer.tokenizer, self._renderer.stops)
        self.counts = _Counts()

    def rows(self, sample: Mapping[str, Any]) -> list[Row]:
        """Return tokens and labels of a sample.

        Raises:
            _Refused: It can't be trained.
            DataError: No sample can be trained with this template.
        """
        messages, tools, settings = sample["messages"], sample.get("tools"), self._settings
        if found := find_special_token(sample, self._special):
            raise _Refused("special-token", found)
        try:
            whole = self._renderer.text(messages, tools)
            self._check_unrendered(messages, whole, tools)
            made = rows(
                self._finder,
                messages,
                whole,
                tools,
                train_on=settings.train_on,
                train_on_reasoning=settings.train_on_reasoning,
            )
        except TemplateError as error:
            raise _Refused("template-error", str(error)) from error
        longest = max((row["len"] for row in made), default=0)
        if longest >= settings.max_seq_len:
            raise _Refused("too-long", f"{longest} tokens, training.max_seq_len={settings.max_seq_len}", longest)
        if _num_loss_tokens(made) == 0:
            raise _Refused("nothing-for-the-loss", self._why_nothing(messages), longest)
        return made

    def _check_unrendered(self, messages: list[dict[str, Any]], whole: str, tools: Any) -> None:
        """Count what the template doesn't render, or refuse the row for it."""
        settings = self._settings
        as_last = () if settings.train_on == "everything" else trained(messages, settings.train_on)
        lost = dict(unrendered(self._renderer, messages, whole, tools, as_last=as_last))
        if lost and not settings.keep_unrendered:
            raise _Refused(UNRENDERED, "; ".join(lost.values()))
        for kind, example in lost.items():
            self.counts.unrendered[kind] = self.counts.unrendered.get(kind, 0) + 1
            self.counts.examples.setdefault(kind, example)

    def _why_nothing(self, messages: list[dict[str, Any]]) -> str:
        if not trained(messages, self._settings.train_on):
            return "every assistant turn has weight 0"
        return "the chat template leaves no token to count"

    def count(self, sample: Mapping[str, Any], made: list[Row]) -> None:
        """Count a row that is trained."""
        counts = self.counts
        counts.num_rows += 1
        counts.num_samples += len(made)
        counts.num_folded += self._renderer.folds_system and sample["messages"][0]["role"] in SYSTEM_ROLES
        counts.num_tokens += sum(row["len"] for row in made)
        counts.num_loss_tokens += _num_loss_tokens(made)
        counts.longest_tokens = max(counts.longest_tokens, *(row["len"] for row in made))


def _num_loss_tokens(made: Iterable[Row]) -> int:
    return sum(row["len"] - row["labels"].count(NO_LOSS) for row in made)


if __name__ == "__main__":
    child.main(_tokenize)
