"""A Parquet file of a kilobyte may unfold to gigabytes: it is refused, and what is read before is bounded."""

from __future__ import annotations

import io
import json
import resource
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from sft.adapters import parquet_rows, row_batches
from sft.adapters.parquet_rows import parquet
from sft.adapters.row_batches import DamagedFileError

TEXT = "x" * (64 << 20)
"""Larger than what these tests let reading take."""


def written(column: Any, **settings: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"a": column}), buffer, compression="zstd", **settings)
    assert buffer.tell() < 1 << 16
    buffer.seek(0)
    return buffer


def repeated(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))


def one_text() -> pa.Array:
    return pa.array([TEXT])


def a_text_in_each_row() -> pa.Array:
    return repeated(TEXT[: 8 << 20], 100)


def a_text_in_each_turn() -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, 100], pa.int32()), repeated(TEXT[: 8 << 20], 100))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
@pytest.mark.parametrize("column", [one_text, a_text_in_each_row, a_text_in_each_turn])
@pytest.mark.parametrize("keeps_schema", [True, False])
def test_a_file_that_unfolds_to_too_much_is_refused(
    column: Any, keeps_schema: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_rows, "_MAX_BYTES", 48 << 20)
    file = written(column(), dictionary_pagesize_limit=1 << 30, store_schema=keeps_schema)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(DamagedFileError, match="unfolds to more than 48 MiB; write it again with smaller pages"):
        list(parquet("x.parquet", file, ()))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_row_may_be_no_longer_than_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_batches, "MAX_ROW_BYTES", 100)
    with pytest.raises(DamagedFileError, match="row 2 is longer than"):
        list(parquet("x.parquet", written(pa.array(["short", "x" * 200])), ()))


def test_what_is_written_of_a_row_needs_no_memory_that_reading_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """msgspec, which writes it, ends the process where the limit of reading refuses it memory."""
    monkeypatch.setattr(parquet_rows, "_MAX_BYTES", 40 << 20)
    texts = pa.array(["\0" * (12 << 20)])  # six times as long as JSON
    monkeypatch.setattr(row_batches, "MAX_ROW_BYTES", 100 << 20)
    [(_, line)] = parquet("x.parquet", written(texts), ())
    assert json.loads(line) == {"a": texts[0].as_py()}


def test_an_empty_row_group_ends_nothing() -> None:
    buffer, rows = io.BytesIO(), pa.table({"a": ["one"]})
    with pyarrow.parquet.ParquetWriter(buffer, rows.schema) as file:
        for table in (rows, rows.slice(0, 0), rows):
            file.write_table(table)
    buffer.seek(0)
    assert [content for _, content in parquet("x.parquet", buffer, ())] == [b'{"a":"one"}\n' * 2]


def test_all_row_groups_are_read_in_order() -> None:
    texts = [f"{number}{'x' * (number % 7)}" for number in range(3000)]
    batches = list(parquet("x.parquet", written(pa.array(texts), row_group_size=700), ()))
    assert [number for number, _ in batches] == [1, 1025, 2049]
    assert [json.loads(line)["a"] for _, lines in batches for line in lines.splitlines()] == texts
