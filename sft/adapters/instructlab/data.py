"""Tokenising and loss masks by the library's own code. A child process: ``python -m sft.adapters.instructlab.data``.

Uses `unmask_sample`, which the library's `process_data` maps over a dataset, and none of what surrounds it there:
`filter_samples_by_length` drops rows of fewer than 20 or of `max_seq_len` and more tokens in silence
(data_process.py:1067@0.16.2). Here such a row is kept or refused, never lost.
"""

from __future__ import annotations

import functools
import itertools
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from sft.adapters import child
from sft.adapters.instructlab import fixes
from sft.errors import DataError

_NO_LOSS = -100
_CHECKED_ROWS = 64
_SHOWN_CHARACTERS = 50
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

    @property
    def rejected(self) -> Path:
        return self.target.with_name(f"{self.target.name}.rejected")


@dataclass
class _Counts:
    """What a part holds. Rejected rows lie in ``<target>.rejected``, their lines counted within the part."""

    num_samples: int = 0
    num_rejected: int = 0
    num_tokens: int = 0
    num_loss_tokens: int = 0
    longest_tokens: int = 0


def _tokenize(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child. Request: ``model_dir``, ``train_file``, ``target``, ``rejected``, ``max_seq_len``.

    Returns the counts, and the first rejected rows.
    """
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
    with target.open("wb") as joined, Path(request["rejected"]).open("wb") as refused:
        for part, count in zip(parts, counts, strict=True):
            with part.target.open("rb") as piece:
                shutil.copyfileobj(piece, joined, 1 << 20)
            with part.rejected.open("rb") as piece:
                for line in piece:
                    row = msgspec.json.decode(line)
                    row["line"] += whole.num_samples + whole.num_rejected
                    refused.write(msgspec.json.encode(row) + b"\n")
            part.target.unlink()
            part.rejected.unlink()
            whole.num_samples += count.num_samples
            whole.num_rejected += count.num_rejected
            whole.num_tokens += count.num_tokens
            whole.num_loss_tokens += count.num_loss_tokens
            whole.longest_tokens = max(whole.longest_tokens, count.longest_tokens)
    return asdict(whole)


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
    special = special_tokens(tokenizer)
    counts = _Counts()
    with part.file.open("rb") as lines, part.target.open("wb") as target, part.rejected.open("wb") as rejected:
        lines.seek(part.begin)
        while lines.tell() < part.end:
            line = lines.readline()
            sample = msgspec.json.decode(line)
            row, refused = _tokenize_sample(sample, tokenizer, special, unmask_sample, part.max_seq_len)
            counts.longest_tokens = max(counts.longest_tokens, row["len"])
            if refused:
                counts.num_rejected += 1
                number = counts.num_samples + counts.num_rejected
                begins = json.dumps(sample["messages"][0]["content"][:_SHOWN_CHARACTERS], ensure_ascii=False)
                found = f"{refused[1]}, where it begins {begins}"
                facts = {"file": str(part.file), "line": number, "rule": refused[0], "found": found}
                rejected.write(msgspec.json.encode({**facts, "row": line.decode().rstrip("\n")}) + b"\n")
                continue
            counts.num_samples += 1
            if counts.num_samples <= _CHECKED_ROWS:
                check_mask(sample["messages"], row, tokenizer, str(part.file))
            counts.num_tokens += row["len"]
            counts.num_loss_tokens += row["len"] - row["labels"].count(_NO_LOSS)
            target.write(msgspec.json.encode(row) + b"\n")
    return counts


def _tokenize_sample(
    sample: Mapping[str, Any], tokenizer: Any, special: re.Pattern[str], unmask: Any, max_seq_len: int
) -> tuple[Mapping[str, Any], tuple[str, str] | None]:
    """Tokens and labels of a sample; rule and finding where it can't be trained."""
    nothing: Mapping[str, Any] = {"len": 0}
    for place, message in enumerate(sample["messages"], start=1):
        if found := special.search(message["content"]):
            return nothing, ("special-token", f"turn {place} holds {found[0]}")
    render = tokenizer.apply_chat_template
    if sample.get("tools"):
        tokenizer.apply_chat_template = functools.partial(render, tools=sample["tools"])
    try:
        row: Mapping[str, Any] = unmask({"messages": [_as_template_sees(m) for m in sample["messages"]]}, tokenizer)
    except Exception as error:  # noqa: BLE001 - a template is a program of its own and may raise whatever it likes
        return nothing, ("template-error", f"{type(error).__name__}: {error}")
    finally:
        tokenizer.apply_chat_template = render
    if row["len"] >= max_seq_len:
        return row, ("too-long", f"{row['len']} tokens, training.max_seq_len={max_seq_len}")
    if row["labels"].count(_NO_LOSS) == row["len"]:
        return row, ("nothing-for-the-loss", "the chat template leaves no token to count")
    return row, None


def _as_template_sees(message: Mapping[str, Any]) -> dict[str, Any]:
    """A turn that only calls tools has no content, or the library's markers would make it one."""
    if message.get("tool_calls") and not message["content"]:
        return {key: value for key, value in message.items() if key != "content"}
    return dict(message)


def special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches what the tokenizer takes for a special token wherever it stands, in a user's text too."""
    texts = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)")


def check_mask(messages: list[dict[str, Any]], row: Mapping[str, Any], tokenizer: Any, where: str) -> None:
    """Holds that the loss counts each assistant turn with its terminator, and nothing else.

    Args:
        messages: The conversation.
        row: Its ``input_ids`` and ``labels``.
        tokenizer: What made them.
        where: What holds it, for the message.

    Raises:
        DataError: It does not (trap 2: ``eos_token`` is not the token that ends the template's turns).
    """
    turns = [message for message in messages if message["role"] == "assistant" and message["content"]]
    spans = [
        [token for _, token in group]
        for counted, group in itertools.groupby(enumerate(row["labels"]), key=lambda pair: pair[1] != _NO_LOSS)
        if counted
    ]
    ends = all(span[-1] == tokenizer.eos_token_id for span in spans)
    texts = [tokenizer.decode(span[:-1] if ends else span) for span in spans]
    if ends and len(texts) == len(turns) and all(map(_is_turn, texts, turns)):
        return
    counted = json.dumps([tokenizer.decode(span) for span in spans], ensure_ascii=False)
    raise DataError(
        f"{where}: with this tokenizer and chat template the loss would count {counted[:600]}, "
        f"not each of the {len(turns)} assistant turns with its end-of-sequence token {tokenizer.eos_token!r}",
        fix="the tokenizer's eos_token must be the token that ends a turn in its chat template",
    )


def _is_turn(text: str, turn: Mapping[str, Any]) -> bool:
    """Whether a text is an assistant's turn, its calls of tools included."""
    counted, content = _squeezed(text), _squeezed(turn["content"])
    return counted.startswith(content) if turn.get("tool_calls") else counted == content


def _squeezed(text: str) -> str:
    """Without white space, which templates strip and tokenizers normalise."""
    return "".join(text.split())


if __name__ == "__main__":
    child.main(_tokenize)
