"""Rows of CSV: an open file in, its rows out as JSON objects, in which every value is a text."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from typing import IO

import msgspec

from sft.adapters import row_batches
from sft.adapters.row_batches import Batch, DamagedFileError, numbered, too_long

_OTHER_MARKS = (";", "\t", "|")
"""What spreadsheets write between fields in place of a comma."""


def rows(file: IO[bytes]) -> Iterator[Batch]:
    """Yield the rows of a ``.csv`` with a header.

    Raises:
        DamagedFileError: A line is not CSV, has more or fewer fields than the header, or a row is too long; or
            something else than commas parts the fields.
        UnicodeDecodeError: It is not UTF-8.
    """
    return numbered(_lines(file))


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the header and each row as JSON with as many line ends as it has in the file, so that lines keep count."""
    csv.field_size_limit(row_batches.MAX_ROW_BYTES)  # of the whole process: nothing else in it reads CSV
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    lines = _Lines(text)
    reader = csv.reader(lines, strict=True)
    line = 0  # where the row before ends
    try:
        header = next(reader, [])
        if twice := sorted(name for name, count in Counter(header).items() if count > 1):
            names = ", ".join(map(repr, twice))
            raise DamagedFileError(f"line 1: {names} names two columns; each needs a name of its own")
        if len(header) == 1 and (mark := next((mark for mark in _OTHER_MARKS if mark in header[0]), None)):
            rule = "save it with commas between the fields"
            raise DamagedFileError(f"line 1: {header[0]!r} is one field; {mark!r} does not part fields here: {rule}")
        yield b"\n" * reader.line_num
        line = reader.line_num
        for row in reader:
            yield _row(header, row, line + 1) + b"\n" * (reader.line_num - line)
            line, lines.num_characters = reader.line_num, 0
    except csv.Error as error:
        raise DamagedFileError(f"line {line + 1}: not a valid .csv file: {error}") from error
    except _TooLongError as error:
        raise too_long(f"the row that begins in line {line + 1}") from error
    finally:
        text.detach()  # the file is its opener's to close


class _TooLongError(Exception):
    """A row has more characters than one may have bytes."""


class _Lines:
    """The lines of a text, of which those of one row are counted."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.num_characters = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(row_batches.MAX_ROW_BYTES + 1)
        self.num_characters += len(line)
        if self.num_characters > row_batches.MAX_ROW_BYTES:
            raise _TooLongError
        if not line:
            raise StopIteration
        return line


def _row(header: list[str], row: list[str], line: int) -> bytes:
    if row and len(row) != len(header):
        rule = "a text that holds a comma, a quote or a line end stands in quotes"
        raise DamagedFileError(f"line {line}: {len(row)} of the header's {len(header)} fields; {rule}")
    return msgspec.json.encode(dict(zip(header, row, strict=True))) if row else b""
