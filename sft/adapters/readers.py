"""Owns file formats: an open file in, rows as JSON bytes out, streamed in batches. Knows nothing of chat.

``.jsonl`` rows are passed on as they are; ``.json`` (an array), ``.csv`` and ``.parquet`` rows become JSON
objects. JSON Lines in a ``.json`` and an array in a ``.jsonl`` are read as what they are. Each may be compressed as
``.gz`` or ``.zst``.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import PurePosixPath
from typing import IO, Any

import msgspec

from sft.adapters.arrow_rows import as_json_lines, check_columns
from sft.errors import DataError

Batch = tuple[int, bytes]
"""Rows that follow each other: the line (``.jsonl``, ``.csv``) or row number of the first, from 1, and a JSON line for
each. A row of several lines is followed by empty ones."""

MAX_ROW_BYTES = 64 << 20
"""A longer line is refused: it is a file without line ends, not a conversation."""

_COMPRESSED = {".gz", ".zst"}
_BATCH_ROWS = 1024
_BLOCK_BYTES = 1 << 18


class _Damaged(Exception):
    """What a reader found wrong with a whole file."""


KINDS = (".jsonl", ".json", ".csv", ".parquet")


def supported(name: str) -> bool:
    """Return whether a file of this name can be read."""
    return _kind(name)[0] in KINDS


def batches(name: str, file: IO[bytes], ignored: Collection[str] = ()) -> Iterator[Batch]:
    """Yield the rows of one open file, in order, some at a time.

    Args:
        name: Its name, which says what kind of file it is.
        file: The file.
        ignored: Columns that needn't be read.

    Raises:
        DataError: The file is truncated, not what its name says, or not of a known kind.
    """
    kind, compression = _kind(name)
    if kind not in KINDS:
        raise DataError(
            f"{name}: can't read this kind of file", fix=f"use {', '.join(KINDS)}, or those with .gz or .zst"
        )
    try:
        stream = _decompressed(file, compression)
        yield from _parquet(name, stream, ignored) if kind == ".parquet" else _READERS[kind](stream)
    except (EOFError, gzip.BadGzipFile, zlib.error, _Undecompressed) as error:
        raise DataError(
            f"{name}: the compressed file is damaged or cut short ({error})", fix="fetch it again"
        ) from error
    except _Damaged as error:
        raise DataError(f"{name}: {error}") from error
    except (msgspec.DecodeError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{name}: not a valid {kind} file: {error}") from error
    except RecursionError as error:
        raise DataError(f"{name}: JSON nested too deeply") from error


def _kind(name: str) -> tuple[str, str]:
    path = PurePosixPath(name.lower())
    if path.suffix in _COMPRESSED:
        return PurePosixPath(path.stem).suffix, path.suffix
    return path.suffix, ""


def _decompressed(file: IO[bytes], compression: str) -> IO[bytes] | io.BufferedIOBase:
    if compression == ".gz":
        return gzip.GzipFile(fileobj=file)
    if compression == ".zst":
        return io.BufferedReader(_ZstdStream(file), 1 << 20)
    return file


class _Undecompressed(Exception):
    """What pyarrow says of a damaged stream: its own exception is OSError, as if the disk were at fault."""


class _ZstdStream(io.RawIOBase):
    """Decompresses while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        import pyarrow

        self._stream = pyarrow.CompressedInputStream(file, "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        try:
            content = self._stream.read(len(target))
        except OSError as error:
            if error.errno is not None:
                raise
            raise _Undecompressed(str(error)) from error
        target[: len(content)] = content
        return len(content)


def _jsonl(file: IO[bytes]) -> Iterator[Batch]:
    first = file.readline(MAX_ROW_BYTES + 1)
    if first.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        content = first + file.read()
        if (items := _array(first, content)) is not None:
            yield from items
            return
        first, file = b"", io.BytesIO(content)
    yield from _json_lines(first, file)


def _array(first_line: bytes, content: bytes) -> Iterator[Batch] | None:
    """Return the rows of an array; None if the first line is a row of its own, which happens to be a list."""
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        items = msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return None
    if len(first_line) >= len(content.rstrip()) and not any(bytes(item).startswith(b"{") for item in items):
        return None
    return _items(items)


def _json_lines(first: bytes, file: IO[bytes]) -> Iterator[Batch]:
    number = 1
    while block := first + file.read(_BLOCK_BYTES):
        first = b""
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
    first = file.readline(MAX_ROW_BYTES + 1)
    if not first.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        content = (first + file.read()).removeprefix(codecs.BOM_UTF8)
        yield from _items(msgspec.json.decode(content, type=list[msgspec.Raw]))
    elif _is_json(first):
        yield from _json_lines(first, file)
    else:
        content = (first + file.read()).removeprefix(codecs.BOM_UTF8)
        if _is_json(content):
            columns = ", ".join(msgspec.json.decode(content, type=dict[str, msgspec.Raw]))
            raise _Damaged(f"holds one JSON object, with {columns}; write its rows as an array or as JSON Lines")
        yield from _json_lines(b"", io.BytesIO(content))


def _items(items: list[msgspec.Raw]) -> Iterator[Batch]:
    """Yield an array's items as lines: in JSON, a bare line end is white space."""
    return _batches(bytes(item).replace(b"\n", b" ") for item in items)


def _is_json(content: bytes) -> bool:
    try:
        msgspec.json.decode(content.removeprefix(codecs.BOM_UTF8), type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return False
    return True


def _csv(file: IO[bytes]) -> Iterator[Batch]:
    lines, number = _csv_lines(file), 1
    while batch := b"".join(itertools.islice(lines, _BATCH_ROWS)):
        yield number, batch
        number += batch.count(b"\n")


def _csv_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the header and each row as JSON with as many line ends as it has in the file, so that lines keep count."""
    csv.field_size_limit(MAX_ROW_BYTES)  # of the whole process: nothing else in it reads CSV
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    rows = csv.reader(text, strict=True)
    line = 0  # where the row before ends
    try:
        header = next(rows, [])
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise _Damaged(f"line 1: {', '.join(map(repr, twice))} names two columns; each needs a name of its own")
        yield b"\n" * rows.line_num
        line = rows.line_num
        for row in rows:
            yield _csv_row(header, row, line + 1) + b"\n" * (rows.line_num - line)
            line = rows.line_num
    except csv.Error as error:
        raise _Damaged(f"line {line + 1}: not a valid .csv file: {error}") from error
    finally:
        text.detach()  # the file is its opener's to close


def _csv_row(header: list[str], row: list[str], line: int) -> bytes:
    if row and len(row) != len(header):
        rule = "a text that holds a comma, a quote or a line end stands in quotes"
        raise _Damaged(f"line {line}: {len(row)} of the header's {len(header)} fields; {rule}")
    return msgspec.json.encode(dict(zip(header, row, strict=True))) if row else b""


def _parquet(name: str, file: Any, ignored: Collection[str]) -> Iterator[Batch]:
    import pyarrow
    import pyarrow.parquet

    try:
        content = pyarrow.parquet.ParquetFile(file)
        schema = content.schema_arrow
        left_out = [column for column in schema.names if column in ignored]
        columns = [column for column in schema.names if column not in ignored]
        check_columns(name, [schema.field(column) for column in columns])
        rows = (row for batch in content.iter_batches(_BATCH_ROWS, columns=columns) for row in batch.to_pylist())
        yield from _batches(as_json_lines(name, rows, left_out))
    except pyarrow.ArrowException as error:
        raise _Damaged(f"not a valid .parquet file: {error}") from error


def _batches(rows: Iterator[bytes]) -> Iterator[Batch]:
    number = 1
    while batch := list(itertools.islice(rows, _BATCH_ROWS)):
        yield number, b"\n".join([*batch, b""])
        number += len(batch)


_READERS: dict[str, Callable[[Any], Iterator[Batch]]] = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}
