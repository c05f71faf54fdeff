"""Tokenising and loss masks by the library's own code. A child process: ``python -m sft.adapters.instructlab.data``.

Uses `unmask_sample`, which the library's `process_data` maps over a dataset, and none of what surrounds it there:
`filter_samples_by_length` drops rows of fewer than 20 or of `max_seq_len` and more tokens in silence
(data_process.py:1067@0.16.2). Here such a row is kept or refused, never lost.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sft.adapters import child
from sft.adapters.instructlab import fixes
from sft.errors import DataError

_NO_LOSS = -100
_SHOWN_ROWS = 5
_CHECKED_ROWS = 64
_PART_BYTES = 4 << 20
"""A file is shared among processes in parts of at least this size; a smaller one isn't worth another process."""


@dataclass(frozen=True)
class _Part:
    """Lines of a file from one byte to another, and where their tokens go."""

    file: Path
    begin: int
    end: int
    target: Path
    model_dir: str
    max_seq_len: int


@dataclass
class _Counts:
    """What a part holds. Lines are counted from 1 within the part."""

    num_samples: int = 0
    num_tokens: int = 0
    num_loss_tokens: int = 0
    longest_tokens: int = 0
    too_long: list[int] = field(default_factory=list)
    without_loss: list[int] = field(default_factory=list)


def _tokenize(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child. Request: ``model_dir``, ``train_file``, ``target``, ``max_seq_len``."""
    file, target = Path(request["train_file"]), Path(request["target"])
    parts = [
        _Part(
            file, begin, end, target.with_name(f"{target.name}.{begin}"), request["model_dir"], request["max_seq_len"]
        )
        for begin, end in _ranges(file, len(os.sched_getaffinity(0)))
    ]
    if len(parts) == 1:
        counts = [_tokenize_part(parts[0])]
    else:
        os.environ[child.PARENT_PID] = str(os.getpid())
        fork = multiprocessing.get_context("fork")  # safe: nothing that starts threads is imported yet
        with ProcessPoolExecutor(len(parts), fork, initializer=child.die_with_parent) as pool:
            counts = list(pool.map(_tokenize_part, parts))
    whole = _Counts()
    with target.open("wb") as joined:
        for part, count in zip(parts, counts, strict=True):
            whole.too_long += [line + whole.num_samples for line in count.too_long]
            whole.without_loss += [line + whole.num_samples for line in count.without_loss]
            whole.num_samples += count.num_samples
            whole.num_tokens += count.num_tokens
            whole.num_loss_tokens += count.num_loss_tokens
            whole.longest_tokens = max(whole.longest_tokens, count.longest_tokens)
            with part.target.open("rb") as piece:
                shutil.copyfileobj(piece, joined, 1 << 20)
            part.target.unlink()
    _refuse(whole, file, request["max_seq_len"])
    return {name: value for name, value in asdict(whole).items() if isinstance(value, int)}


def _ranges(file: Path, num_processes: int) -> list[tuple[int, int]]:
    """Byte ranges that begin and end at line ends, one per process."""
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


def _tokenize_part(part: _Part) -> _Counts:
    fixes.without_trackers()

    from instructlab.training.data_process import configure_tokenizer, unmask_sample

    tokenizer = configure_tokenizer(part.model_dir)
    counts = _Counts()
    with part.file.open("rb") as lines, part.target.open("wb") as target:
        lines.seek(part.begin)
        while lines.tell() < part.end:
            sample = msgspec.json.decode(lines.readline())
            counts.num_samples += 1
            try:
                row: Mapping[str, Any] = unmask_sample(sample, tokenizer)
            except Exception as error:  # whatever a template raises; which sample it was is nowhere in it
                conversation = json.dumps(sample["messages"], ensure_ascii=False)[:300]
                raise DataError(f"the chat template or its loss mask fails on {conversation}: {error}") from error
            if counts.num_samples <= _CHECKED_ROWS:
                check_mask(sample["messages"], row, tokenizer, str(part.file))
            num_loss_tokens = len(row["labels"]) - row["labels"].count(_NO_LOSS)
            counts.num_tokens += row["len"]
            counts.num_loss_tokens += num_loss_tokens
            counts.longest_tokens = max(counts.longest_tokens, row["len"])
            if row["len"] >= part.max_seq_len:
                counts.too_long.append(counts.num_samples)
            elif num_loss_tokens == 0:
                counts.without_loss.append(counts.num_samples)
            target.write(msgspec.json.encode(row) + b"\n")
    return counts


def _refuse(whole: _Counts, file: Path, max_seq_len: int) -> None:
    if whole.too_long:
        need = whole.longest_tokens + 1
        raise DataError(
            f"{len(whole.too_long)} samples have training.max_seq_len={max_seq_len} tokens or more, up to "
            f"{whole.longest_tokens} (lines {_shown(whole.too_long)} of {file})",
            fix=f"training.max_seq_len={need}, with training.max_tokens_per_gpu at least as large; or shorten them",
        )
    if whole.without_loss:
        where = f"lines {_shown(whole.without_loss)} of {file}"
        raise DataError(f"{len(whole.without_loss)} samples have no token for the loss ({where})")


def _shown(lines: list[int]) -> str:
    return ", ".join(map(str, lines[:_SHOWN_ROWS])) + (", …" if len(lines) > _SHOWN_ROWS else "")


def check_mask(messages: list[dict[str, str]], row: Mapping[str, Any], tokenizer: Any, where: str) -> None:
    """Holds that the loss counts each assistant turn with its terminator, and nothing else.

    Args:
        messages: The conversation.
        row: Its ``input_ids`` and ``labels``.
        tokenizer: What made them.
        where: What holds it, for the message.

    Raises:
        DataError: It does not (trap 2: ``eos_token`` is not the token that ends the template's turns).
    """
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    spans = [
        [token for _, token in group]
        for counted, group in itertools.groupby(enumerate(row["labels"]), key=lambda pair: pair[1] != _NO_LOSS)
        if counted
    ]
    ends = all(span[-1] == tokenizer.eos_token_id for span in spans)
    texts = [tokenizer.decode(span[:-1] if ends else span) for span in spans]
    if ends and [_squeezed(text) for text in texts] == [_squeezed(answer) for answer in answers]:
        return
    counted = json.dumps([tokenizer.decode(span) for span in spans], ensure_ascii=False)
    raise DataError(
        f"{where}: with this tokenizer and chat template the loss would count {counted[:600]}, "
        f"not each of the {len(answers)} assistant turns with its end-of-sequence token {tokenizer.eos_token!r}",
        fix="the tokenizer's eos_token must be the token that ends a turn in its chat template",
    )


def _squeezed(text: str) -> str:
    """Without white space, which templates strip and tokenizers normalise."""
    return "".join(text.split())


if __name__ == "__main__":
    child.main(_tokenize)
