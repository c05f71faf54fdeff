"""Arrow's rows as JSON: which columns JSON can hold, and what Arrow put into a row that its author never wrote."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from sft.errors import DataError


def check_columns(what: str, schema: Any) -> None:
    """Raise `DataError` if JSON can't hold a column, such as an image.

    Args:
        what: Names the file or dataset in the message.
        schema: Arrow's schema of the columns that are read.
    """
    for column in schema:
        if not _fits_json(column.type):
            message = f"{what}: column {column.name} holds {column.type}, which JSON can't"
            raise DataError(message, fix=f"leave it out: dataset.ignore_fields=[{column.name}]")


def as_json_lines(what: str, rows: Iterable[Mapping[str, Any]], left_out: Collection[str] = ()) -> Iterator[bytes]:
    """Yield the JSON of each row, with null in the columns that were left out.

    An Arrow struct has the fields of every row's struct, those that a row never had as null. They are taken out again:
    else each tool call would have the arguments of all tools.

    Raises:
        DataError: A value can't be written.
    """
    encode = msgspec.json.Encoder(enc_hook=_plain).encode
    nulls = dict.fromkeys(left_out)
    num_rows = 0
    try:
        for row in rows:
            yield encode(nulls | {name: _without_fill(value) for name, value in row.items()})
            num_rows += 1
    except (NotImplementedError, TypeError, ValueError, OverflowError, RecursionError) as error:
        fix = "leave the column out: dataset.ignore_fields=[NAME]"
        raise DataError(
            f"{what}: after row {num_rows} comes a value that JSON can't hold ({error})", fix=fix
        ) from error


def _without_fill(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_fill(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_fill(item) for item in value]
    return value


def _fits_json(kind: Any) -> bool:
    """Return whether an Arrow type has no binary parts, which msgspec would write as base64 text, nor durations."""
    from pyarrow import types

    tests = types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_duration
    if any(is_unfit(kind) for is_unfit in tests):
        return False
    return all(_fits_json(kind.field(number).type) for number in range(kind.num_fields))


def _plain(value: object) -> str:
    """Return the text of what msgspec doesn't know: pandas' kind of time, in which nanoseconds come."""
    if isinstance(value, datetime):
        return value.isoformat()
    kind = "duration" if isinstance(value, timedelta) else type(value).__name__
    raise NotImplementedError(f"JSON can't hold a {kind}")
