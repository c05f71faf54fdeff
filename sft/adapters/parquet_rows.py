"""Rows of Parquet: an open file in, its rows out. What a page unfolds to is not known before, so memory is limited."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from sft.adapters import row_batches
from sft.adapters.arrow_rows import as_json_lines, check_columns
from sft.adapters.row_batches import Batch, DamagedFileError, numbered, too_long
from sft.memory_limit import memory_limit

_BUFFER_BYTES = 1 << 20
_READ_ROWS, _READ_BYTES = 128, 4 << 20
"""What is read at once; the bytes are those in the file, in which a repeated text stands once."""
_MAX_BYTES = 400 << 20
"""Memory that reading may take; a page, which is read as a whole, has 1 MiB where nobody asks for more."""


def parquet(name: str, file: Any, ignored: Collection[str]) -> Iterator[Batch]:
    """Yield the rows of a ``.parquet``.

    Args:
        name: The file's name, for messages.
        file: The file.
        ignored: Columns that needn't be read.

    Raises:
        DataError: JSON can't hold a column.
        DamagedFileError: It is not Parquet, a row is longer than `MAX_ROW_BYTES`, or a page unfolds to too much.
    """
    import pyarrow
    import pyarrow.parquet

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # others take more than is asked for
    try:
        yield from numbered(_lines(name, file, ignored))
    except MemoryError as error:
        what = f"a page or row of it unfolds to more than {_MAX_BYTES >> 20} MiB"
        raise DamagedFileError(f"{what}; write it again with smaller pages and row groups") from error
    except pyarrow.ArrowException as error:
        raise DamagedFileError(f"not a valid .parquet file: {error}") from error


def _lines(name: str, file: Any, ignored: Collection[str]) -> Iterator[bytes]:
    import pyarrow.parquet

    with memory_limit(_MAX_BYTES):
        content = pyarrow.parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES)
    schema = content.schema_arrow
    left_out = [column for column in schema.names if column in ignored]
    columns = [column for column in schema.names if column not in ignored]
    check_columns(name, [schema.field(column) for column in columns])
    lines = as_json_lines(name, _rows(content, columns), left_out)
    for number, line in enumerate(lines, start=1):
        if len(line) > row_batches.MAX_ROW_BYTES:
            raise too_long(f"row {number:,}")
        yield line + b"\n"


def _rows(content: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield rows, a few megabytes read at once.

    Only Arrow's work is under the limit, and a row is measured before msgspec has it: msgspec 0.22 ends the process
    where it gets no memory.
    """
    num_rows = 0
    for group in range(content.num_row_groups):
        facts = content.metadata.row_group(group)
        row_bytes = max(facts.total_byte_size // max(facts.num_rows, 1), 1)
        size = max(min(_READ_BYTES // row_bytes, _READ_ROWS), 1)
        batches = content.iter_batches(size, row_groups=[group], columns=columns, use_threads=False)
        while (rows := _next_rows(batches)) is not None:
            for row in rows:
                num_rows += 1
                if _num_characters(row) > row_batches.MAX_ROW_BYTES:
                    raise too_long(f"row {num_rows:,}")
                yield row


def _next_rows(batches: Iterator[Any]) -> list[dict[str, Any]] | None:
    with memory_limit(_MAX_BYTES):
        return next((batch.to_pylist() for batch in batches), None)


def _num_characters(value: Any) -> int:
    """Return the characters of all texts in a value, of which its JSON has no fewer."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_num_characters, value.values()))
    return sum(map(_num_characters, value)) if isinstance(value, list) else 0
