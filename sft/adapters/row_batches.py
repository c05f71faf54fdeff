"""What readers of rows share: how rows are handed on, some at a time, and how long one may be."""

from __future__ import annotations

from collections.abc import Iterator

Batch = tuple[int, bytes]
"""Rows that follow each other: the line (``.jsonl``, ``.csv``) or row number of the first, from 1, and a JSON line for
each. A row of several lines is followed by empty ones."""

MAX_ROW_BYTES = 16 << 20
"""A longer row is refused, millions of tokens: it is a file without line ends, not a conversation."""

BATCH_ROWS = 1024
BATCH_BYTES = 1 << 20


class DamagedFileError(Exception):
    """What a reader found wrong with a whole file; whoever knows its name says it."""


def too_long(what: str) -> DamagedFileError:
    """Return the error of a row that no conversation needs.

    Args:
        what: Says which row: "line 3".
    """
    return DamagedFileError(f"{what} is longer than {MAX_ROW_BYTES >> 20} MiB; write one conversation per row")


def numbered(lines: Iterator[bytes]) -> Iterator[Batch]:
    """Yield lines in batches, each with the number of its first line; a line may be several, or nothing but its end."""
    number, batch, num_bytes = 1, list[bytes](), 0
    for line in lines:
        batch.append(line)
        num_bytes += len(line)
        if len(batch) == BATCH_ROWS or num_bytes >= BATCH_BYTES:
            content = b"".join(batch)
            yield number, content
            number, batch, num_bytes = number + content.count(b"\n"), [], 0
    if batch:
        yield number, b"".join(batch)
