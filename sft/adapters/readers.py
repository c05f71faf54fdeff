"""Owns file formats: an open file in, rows as JSON bytes out, streamed in batches. Knows nothing of chat.

``.jsonl`` rows are passed on as they are; ``.json`` (an array), ``.csv`` and ``.parquet`` rows become JSON
objects. JSON Lines in a ``.json`` and an array in a ``.jsonl`` are read as what they are. Each may be compressed as
``.gz`` or ``.zst``. Whatever a file holds or unfolds to, a few rows of it are in memory.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator
from pathlib import PurePosixPath
from typing import IO, Any

import msgspec

from sft.adapters import csv_rows, decompression, json_rows, parquet_rows
from sft.adapters.decompression import UnfoldsTooFarError
from sft.adapters.row_batches import Batch, DamagedFileError
from sft.errors import DataError

_READERS: dict[str, Callable[[Any], Iterator[Batch]]] = {
    ".jsonl": json_rows.jsonl,
    ".json": json_rows.json,
    ".csv": csv_rows.rows,
}
_PARQUET = ".parquet"
KINDS = (*_READERS, _PARQUET)


def supported(name: str) -> bool:
    """Return whether a file of this name can be read."""
    return _kind(name)[0] in KINDS


def unfolds(name: str) -> bool:
    """Return whether a file of this name may hold more than its size says."""
    kind, compression = _kind(name)
    return bool(compression) or kind == _PARQUET


def batches(
    name: str, file: IO[bytes], ignored: Collection[str] = (), *, max_bytes: int | None = None
) -> Iterator[Batch]:
    """Yield the rows of one open file, in order, some at a time.

    Args:
        name: Its name, which says what kind of file it is.
        file: The file.
        ignored: Columns that needn't be read.
        max_bytes: What a compressed file may unfold to; None = any.

    Raises:
        DataError: The file is truncated, not what its name says, not of a known kind, or unfolds to too much.
    """
    kind, compression = _kind(name)
    if kind not in KINDS:
        raise DataError(
            f"{name}: can't read this kind of file", fix=f"use {', '.join(KINDS)}, or those with .gz or .zst"
        )
    try:
        stream = decompression.decompressed(file, compression, max_bytes)
        if kind == _PARQUET:
            yield from _bounded(parquet_rows.parquet(name, stream, ignored), max_bytes)
        else:
            yield from _READERS[kind](stream)
    except UnfoldsTooFarError as error:
        message = f"{name}: unfolds to more than dataset.max_download_bytes={max_bytes}"
        raise DataError(message, fix="raise dataset.max_download_bytes if the size is right") from error
    except decompression.DAMAGED as error:
        raise DataError(
            f"{name}: the compressed file is damaged or cut short ({error})", fix="fetch it again"
        ) from error
    except DamagedFileError as error:
        raise DataError(f"{name}: {error}") from error
    except (msgspec.DecodeError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{name}: not a valid {kind} file: {error}") from error
    except RecursionError as error:
        raise DataError(f"{name}: JSON nested too deeply") from error


def _bounded(rows: Iterator[Batch], max_bytes: int | None) -> Iterator[Batch]:
    num_bytes = 0
    for number, lines in rows:
        num_bytes += len(lines)
        if max_bytes is not None and num_bytes > max_bytes:
            raise UnfoldsTooFarError
        yield number, lines


def _kind(name: str) -> tuple[str, str]:
    path = PurePosixPath(name.lower())
    if path.suffix in decompression.ENDINGS:
        return PurePosixPath(path.stem).suffix, path.suffix
    return path.suffix, ""
