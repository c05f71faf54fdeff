"""Owns file formats: an open file in, rows as JSON bytes out, streamed in batches. Knows nothing of chat.

``.jsonl`` rows are passed on as they are; ``.json`` (an array), ``.csv`` and ``.parquet`` rows become JSON
objects. Each may be compressed as ``.gz`` or ``.zst``.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any

import msgspec

from sft.errors import DataError

Batch = tuple[int, bytes]
"""Rows that follow each other: the line (``.jsonl``) or row number of the first, from 1, and a JSON line for each."""

MAX_ROW_BYTES = 64 << 20
"""A longer line is refused: it is a file without line ends, not a conversation."""

_COMPRESSED = {".gz", ".zst"}
_BATCH_ROWS = 1024
_BLOCK_BYTES = 1 << 18


class _Damaged(Exception):
    """What a reader found wrong with a whole file."""


KINDS = (".jsonl", ".json", ".csv", ".parquet")


def supported(name: str) -> bool:
    """Whether a file of this name can be read."""
    return _kind(name)[0] in _READERS


def batches(name: str, file: IO[bytes]) -> Iterator[Batch]:
    """The rows of one open file, in order, some at a time.

    Raises:
        DataError: The file is truncated, not what its name says, or not of a known kind.
    """
    kind, compression = _kind(name)
    if kind not in _READERS:
        raise DataError(
            f"{name}: can't read this kind of file", fix=f"use {', '.join(_READERS)}, or those with .gz or .zst"
        )
    try:
        yield from _READERS[kind](_decompressed(file, compression))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{name}: the compressed file is damaged or cut short ({error})", fix="fetch it again"
        ) from error
    except _Damaged as error:
        raise DataError(f"{name}: {error}") from error
    except (msgspec.DecodeError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{name}: not a valid {kind} file: {error}") from error


def _kind(name: str) -> tuple[str, str]:
    path = PurePosixPath(name.lower())
    if path.suffix in _COMPRESSED:
        return PurePosixPath(path.stem).suffix, path.suffix
    return path.suffix, ""


def _decompressed(file: IO[bytes], compression: str) -> IO[bytes] | io.BufferedIOBase:
    if compression == ".gz":
        return gzip.GzipFile(fileobj=file)
    if compression == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"), 1 << 20)
    return file


def _jsonl(file: IO[bytes]) -> Iterator[Batch]:
    number = 1
    while block := file.read(_BLOCK_BYTES):
        if not block.endswith(b"\n"):
            block += file.readline(MAX_ROW_BYTES + 1)
            last = len(block) - block.rfind(b"\n", 0, -1) - 1
            if last > MAX_ROW_BYTES:
                number += block.count(b"\n", 0, -1)
                raise _Damaged(
                    f"line {number} is longer than {MAX_ROW_BYTES >> 20} MiB; write one JSON object per line"
                )
            if not block.endswith(b"\n"):
                block += b"\n"
        if number == 1:
            block = block.removeprefix(codecs.BOM_UTF8)
        yield number, block
        number += block.count(b"\n")


def _json(file: IO[bytes]) -> Iterator[Batch]:
    items = msgspec.json.decode(file.read().removeprefix(codecs.BOM_UTF8), type=list[msgspec.Raw])
    yield from _batches(bytes(item).replace(b"\n", b" ") for item in items)  # in JSON a bare line end is white space


def _csv(file: IO[bytes]) -> Iterator[Batch]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    rows = csv.DictReader(text, strict=True)
    yield from _batches(msgspec.json.encode({str(key): value for key, value in row.items()}) for row in rows)


def _parquet(file: IO[bytes]) -> Iterator[Batch]:
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(file).iter_batches(_BATCH_ROWS)
        yield from _batches(msgspec.json.encode(row) for batch in batches for row in batch.to_pylist())
    except pyarrow.ArrowInvalid as error:
        raise _Damaged(f"not a valid .parquet file: {error}") from error


def _batches(rows: Iterator[bytes]) -> Iterator[Batch]:
    number = 1
    while batch := list(itertools.islice(rows, _BATCH_ROWS)):
        yield number, b"\n".join([*batch, b""])
        number += len(batch)


_READERS: dict[str, Callable[[Any], Iterator[Batch]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
