"""Owns file formats: an open file in, rows as JSON bytes out, streamed. Knows nothing of chat or of where files lie.

``.jsonl`` rows are passed on as they are; ``.json`` (an array), ``.csv`` and ``.parquet`` rows become JSON
objects. Each may be compressed as ``.gz`` or ``.zst``.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any

import msgspec

from sft.errors import DataError

Row = tuple[int, bytes]
"""Line (``.jsonl``) or row number, counted from 1, and the row's JSON."""

MAX_ROW_BYTES = 256 << 20
"""A longer line is refused: it is a file without line ends, not a conversation."""

_COMPRESSED = {".gz", ".zst"}
_PARQUET_BATCH_ROWS = 1024


class _Damaged(Exception):
    """What a reader found wrong with a whole file."""


def supported(name: str) -> bool:
    """Whether a file of this name can be read."""
    return _kind(name)[0] in _READERS


def rows(name: str, file: IO[bytes]) -> Iterator[Row]:
    """The rows of one open file, in order.

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


def _jsonl(file: IO[bytes]) -> Iterator[Row]:
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            raise _Damaged(f"line {number} is longer than {MAX_ROW_BYTES >> 20} MiB; write one JSON object per line")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line := line.strip():
            yield number, line


def _json(file: IO[bytes]) -> Iterator[Row]:
    items = msgspec.json.decode(file.read().removeprefix(codecs.BOM_UTF8), type=list[msgspec.Raw])
    yield from enumerate(map(bytes, items), start=1)


def _csv(file: IO[bytes]) -> Iterator[Row]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    for number, row in enumerate(csv.DictReader(text, strict=True), start=1):
        yield number, msgspec.json.encode({str(key): value for key, value in row.items()})


def _parquet(file: IO[bytes]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(_PARQUET_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, msgspec.json.encode(row)
    except pyarrow.ArrowInvalid as error:
        raise _Damaged(f"not a valid .parquet file: {error}") from error


_READERS: dict[str, Callable[[Any], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
