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
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from sft.adapters.instructlab.sample_tokens import Counts, Refused, Settings, Tokenizing
from sft.adapters.instructlab.token_texts import pieces_of
from sft.adapters.os import child
from sft.adapters.os.cgroup import num_cpus
from sft.chat.loss import Row
from sft.files import write_json

_SHOWN_CHARACTERS = 50
_NUM_SHOWN, _SHOWN_TOKENS = 3, 4096
"""How many samples a run's page shows, and at most how many tokens of each."""
_PART_BYTES = 4 << 20
"""A file is shared among processes in parts of at least this size; a smaller one isn't worth another process."""


@dataclass(frozen=True)
class _Part:
    """Lines of a file from one byte to another, and where their tokens go."""

    file: Path
    begin: int
    end: int
    target: Path
    settings: Settings
    shown: Path | None = None
    """Where the texts of its first samples go."""

    @property
    def rejected(self) -> Path:
        return self.target.with_name(f"{self.target.name}.rejected")

    @property
    def rows(self) -> Path:
        return self.target.with_name(f"{self.target.name}.rows")


def _tokenize(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child. Request: ``train_file``, ``eval_file`` (None = no such split), ``target``, ``rows``, ``rejected``,
    ``shown``, ``settings``.

    Return the counts of both splits. ``rejected`` gets a line per rejected row, those of the training split first. The
    tokens of the held-out split are not kept: each of its turns is scored, whatever is trained. ``rows`` gets the
    number of each sample's row, a line each, if a row became several.
    """
    target, settings = Path(request["target"]), Settings(**request["settings"])
    scored = replace(settings, train_on="all_turns", train_on_reasoning=True, on_too_long="refuse")
    splits = {
        "train": _parts(request["train_file"], target, settings, Path(request["shown"])),
        "eval": _parts(request["eval_file"], target.with_name(f"{target.name}.eval"), scored),
    }
    counts = iter(_tokenize_parts([part for parts in splits.values() for part in parts]))
    result = {}
    with Path(request["rejected"]).open("wb") as rejected:
        for split, parts in splits.items():
            kept = split == "train"
            with (
                (target if kept else Path(os.devnull)).open("wb") as tokens,
                Path(request["rows"] if kept else os.devnull).open("wb") as rows,
            ):
                joined = _join(list(zip(parts, counts, strict=False)), tokens, rows, rejected)
                result[split] = asdict(joined)
            if kept and joined.num_samples == joined.num_rows:
                Path(request["rows"]).unlink()
    return result


def _parts(name: str | None, target: Path, settings: Settings, shown: Path | None = None) -> list[_Part]:
    if name is None:
        return []
    file = Path(name)
    return [
        _Part(file, begin, end, target.with_name(f"{target.name}.{begin}"), settings, None if begin else shown)
        for begin, end in _ranges(file, num_cpus())
    ]


def _tokenize_parts(parts: Sequence[_Part]) -> list[Counts]:
    """Tokenize all parts, in processes of their own where a file has more than one part."""
    if len(parts) == len({part.file for part in parts}):
        return [_tokenize_part(part) for part in parts]
    os.environ[child.PARENT_PID] = str(os.getpid())
    num_processes = min(len(parts), num_cpus())
    fork = multiprocessing.get_context("fork")  # safe: nothing that starts threads is imported yet
    with ProcessPoolExecutor(num_processes, fork, initializer=child.die_with_parent) as pool:
        return list(pool.map(_tokenize_part, parts))


def _join(parts: Sequence[tuple[_Part, Counts]], tokens: BinaryIO, rows: BinaryIO, rejected: BinaryIO) -> Counts:
    """Put the parts of one file together and return the sum of their counts."""
    whole = Counts()
    for part, counts in parts:
        _append(part, tokens, rejected, before=whole.num_rows + whole.num_rejected)
        with part.rows.open("rb") as numbers:
            rows.writelines(b"%d\n" % (int(number) + whole.num_rows) for number in numbers)
        part.rows.unlink()
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


def _tokenize_part(part: _Part) -> Counts:
    tokenizing = Tokenizing(part.settings)
    counts = tokenizing.counts
    first: list[Row] = []
    with (
        part.file.open("rb") as lines,
        part.target.open("wb") as target,
        part.rows.open("wb") as rows,
        part.rejected.open("wb") as rejected,
    ):
        lines.seek(part.begin)
        while lines.tell() < part.end:
            line = lines.readline()
            sample = msgspec.json.decode(line)
            try:
                sequences = tokenizing.rows(sample)
            except Refused as refused:
                counts.num_rejected += 1
                counts.longest_tokens = max(counts.longest_tokens, refused.num_tokens)
                begins = json.dumps(sample["messages"][0]["content"][:_SHOWN_CHARACTERS], ensure_ascii=False)
                found = f"{refused.found}, where it begins {begins}"
                number = counts.num_rows + counts.num_rejected
                facts = {"file": str(part.file), "line": number, "rule": refused.rule, "found": found}
                own = {"row": line.decode().rstrip("\n"), **_source(sample)}
                rejected.write(msgspec.json.encode({**facts, **own}) + b"\n")
                continue
            rows.write(b"%d\n" % counts.num_rows * len(sequences))
            tokenizing.count(sample, sequences)
            first += sequences[: _NUM_SHOWN - len(first)]
            target.writelines(msgspec.json.encode(row | _source(sample)) + b"\n" for row in sequences)
    if part.shown is not None:
        _show(first, tokenizing.tokenizer, part.shown)
    return counts


def _show(rows: Sequence[Row], tokenizer: Any, file: Path) -> None:
    """Write the texts of the first samples, those that count for the loss apart, as `sft.stages.preview` reads them."""
    cut = [(row["input_ids"][:_SHOWN_TOKENS], row["labels"][:_SHOWN_TOKENS]) for row in rows]
    write_json(file, {"samples": [{"pieces": pieces_of(ids, labels, tokenizer)} for ids, labels in cut]})


def _source(sample: Mapping[str, Any]) -> dict[str, str]:
    """Return what names a sample's source, as the last field of its tokens; nothing where the dataset has only one."""
    return {"source": sample["source"]} if "source" in sample else {}


if __name__ == "__main__":
    child.main(_tokenize)
