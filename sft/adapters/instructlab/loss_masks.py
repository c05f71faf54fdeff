"""Token ids and loss masks of the training split, as the library reads them, and the same rules for the held-out split.

A child process: ``python -m sft.adapters.instructlab.loss_masks``.

In the place of the library's `process_data`, whose `filter_samples_by_length` drops rows of fewer than 20 or of
`max_seq_len` and more tokens in silence (trap 1, data_process.py:1067@0.16.2). Here such a row is kept or refused.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from sft.adapters.os import child
from sft.chat.template import NO_LOSS, STOP_FIX, SYSTEM_ROLES, Renderer, TemplateError, special_tokens, stops
from sft.errors import DataError

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
    num_folded: int = 0


def _tokenize(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child. Request: ``model_dir``, ``train_file``, ``eval_file`` (None = no held-out split), ``target``,
    ``rejected``, ``max_seq_len``.

    Returns the counts of both splits. ``rejected`` gets a line per rejected sample, those of the training split first.
    The tokens of the held-out split are not kept.
    """
    target = Path(request["target"])
    splits = {"train": _parts(Path(request["train_file"]), target, request)}
    if request["eval_file"]:
        splits["eval"] = _parts(Path(request["eval_file"]), target.with_name(f"{target.name}.eval"), request)
    counts = iter(_tokenize_parts([part for parts in splits.values() for part in parts]))
    result = {}
    with Path(request["rejected"]).open("wb") as rejected:
        for split, parts in splits.items():
            with (target if split == "train" else Path(os.devnull)).open("wb") as tokens:
                result[split] = asdict(_join(list(zip(parts, counts, strict=False)), tokens, rejected))
    return result


def _parts(file: Path, target: Path, request: Mapping[str, Any]) -> list[_Part]:
    return [
        _Part(
            file, begin, end, target.with_name(f"{target.name}.{begin}"), request["model_dir"], request["max_seq_len"]
        )
        for begin, end in _ranges(file, len(os.sched_getaffinity(0)))
    ]


def _tokenize_parts(parts: Sequence[_Part]) -> list[_Counts]:
    """Tokenizes all parts, in processes of their own where a file has more than one part."""
    if len(parts) == len({part.file for part in parts}):
        return [_tokenize_part(part) for part in parts]
    os.environ[child.PARENT_PID] = str(os.getpid())
    num_processes = min(len(parts), len(os.sched_getaffinity(0)))
    fork = multiprocessing.get_context("fork")  # safe: nothing that starts threads is imported yet
    with ProcessPoolExecutor(num_processes, fork, initializer=child.die_with_parent) as pool:
        return list(pool.map(_tokenize_part, parts))


def _join(parts: Sequence[tuple[_Part, _Counts]], tokens: IO[bytes], rejected: IO[bytes]) -> _Counts:
    """Puts the parts of one file together, with line numbers of the file, and adds up their counts."""
    whole = _Counts()
    for part, count in parts:
        with part.target.open("rb") as piece:
            shutil.copyfileobj(piece, tokens, 1 << 20)
        with part.rejected.open("rb") as piece:
            for line in piece:
                row = msgspec.json.decode(line)
                row["line"] += whole.num_samples + whole.num_rejected
                rejected.write(msgspec.json.encode(row) + b"\n")
        part.target.unlink()
        part.rejected.unlink()
        whole.num_samples += count.num_samples
        whole.num_rejected += count.num_rejected
        whole.num_tokens += count.num_tokens
        whole.num_loss_tokens += count.num_loss_tokens
        whole.longest_tokens = max(whole.longest_tokens, count.longest_tokens)
        whole.num_folded += count.num_folded
    return whole


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


def renderer(model_dir: str) -> Renderer:
    """The tokenizer of a model folder, with the tokens at which the model stops."""
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
    rendering = renderer(part.model_dir)
    special = special_tokens(rendering.tokenizer)
    counts = _Counts()
    with part.file.open("rb") as lines, part.target.open("wb") as target, part.rejected.open("wb") as rejected:
        lines.seek(part.begin)
        while lines.tell() < part.end:
            line = lines.readline()
            sample = msgspec.json.decode(line)
            row, refused = _tokenize_sample(sample, rendering, special, part.max_seq_len)
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
            counts.num_folded += rendering.folds_system and sample["messages"][0]["role"] in SYSTEM_ROLES
            if counts.num_samples <= _CHECKED_ROWS:
                check_mask(sample["messages"], row, rendering, str(part.file))
            counts.num_tokens += row["len"]
            counts.num_loss_tokens += row["len"] - row["labels"].count(NO_LOSS)
            target.write(msgspec.json.encode(row) + b"\n")
    return counts


def _tokenize_sample(
    sample: Mapping[str, Any], rendering: Renderer, special: re.Pattern[str], max_seq_len: int
) -> tuple[Mapping[str, Any], tuple[str, str] | None]:
    """Tokens and labels of a sample; rule and finding where it can't be trained."""
    nothing: Mapping[str, Any] = {"len": 0}
    for place, message in enumerate(sample["messages"], start=1):
        if found := special.search(message["content"]):
            return nothing, ("special-token", f"turn {place} holds {found[0]}")
    try:
        row = rendering.tokenize(sample["messages"], sample.get("tools"))
    except TemplateError as error:
        return nothing, ("template-error", str(error))
    if row["len"] >= max_seq_len:
        return row, ("too-long", f"{row['len']} tokens, training.max_seq_len={max_seq_len}")
    if row["labels"].count(NO_LOSS) == row["len"]:
        return row, ("nothing-for-the-loss", "the chat template leaves no token to count")
    return row, None


def check_mask(messages: list[dict[str, Any]], row: Mapping[str, Any], rendering: Renderer, where: str) -> None:
    """Holds, from the tokens alone, that the loss counts each assistant turn with its terminator and nothing else.

    Args:
        messages: The conversation.
        row: Its ``input_ids`` and ``labels``.
        rendering: What made them.
        where: What holds it, for the message.

    Raises:
        DataError: It does not.
    """
    tokenizer = rendering.tokenizer
    turns = [message for message in messages if message["role"] == "assistant"]
    spans = [
        [token for _, token in group]
        for counted, group in itertools.groupby(enumerate(row["labels"]), key=lambda pair: pair[1] != NO_LOSS)
        if counted
    ]
    ends = all(tokenizer.decode(span[-1:]) in rendering.stops for span in spans)
    texts = [tokenizer.decode(span, skip_special_tokens=True) for span in spans]
    if ends and len(texts) == len(turns) and all(map(_is_turn, texts, turns)):
        return
    counted = json.dumps([tokenizer.decode(span) for span in spans], ensure_ascii=False)
    raise DataError(
        f"{where}: with this tokenizer and chat template the loss would count {counted[:600]}, "
        f"not each of the {len(turns)} assistant turns with a token at which the model stops "
        f"({', '.join(sorted(rendering.stops))})",
        fix=STOP_FIX,
    )


def _is_turn(text: str, turn: Mapping[str, Any]) -> bool:
    """Whether a text is an assistant's turn, its reasoning and its calls of tools included."""
    counted, content = _squeezed(text), _squeezed(turn["content"])
    return content in counted if turn.get("tool_calls") or turn.get("reasoning_content") else counted == content


def _squeezed(text: str) -> str:
    """Without white space, which templates strip and tokenizers normalise."""
    return "".join(text.split())


if __name__ == "__main__":
    child.main(_tokenize)
