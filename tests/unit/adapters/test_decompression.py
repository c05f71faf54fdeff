"""What a compressed file unfolds to is read as far as is allowed."""

from __future__ import annotations

import gzip
import io

import pyarrow as pa
import pyarrow.parquet
import pytest

from sft.adapters import readers
from sft.adapters.decompression import UnfoldsTooFarError, decompressed
from sft.errors import DataError

ROWS = b'{"a":"x"}\n' * 1000


def compressed(content: bytes, ending: str) -> bytes:
    return gzip.compress(content) if ending == ".gz" else pa.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_file_is_read_up_to_its_bound(ending: str) -> None:
    content = compressed(ROWS, ending)
    assert decompressed(io.BytesIO(content), ending, len(ROWS)).read() == ROWS
    with pytest.raises(UnfoldsTooFarError):
        decompressed(io.BytesIO(content), ending, len(ROWS) - 1).read()
    assert decompressed(io.BytesIO(content), "", 1).read() == content  # it has its size


def parquet() -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"a": ["x" * 100] * 1000}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_a_bomb_is_refused_under_the_key_that_bounds_it(kind: str, ending: str) -> None:
    rows = {".jsonl": ROWS, ".json": b"[" + ROWS.rstrip().replace(b"\n", b",") + b"]", ".csv": b"a\n" + b"x\n" * 9000}
    content = compressed(rows[kind], ending)
    said = f"x{kind}{ending}: unfolds to more than dataset.max_download_bytes=4000\n  try: raise"
    with pytest.raises(DataError, match=said):
        list(readers.batches(f"x{kind}{ending}", io.BytesIO(content), max_bytes=4000))


@pytest.mark.parametrize("name", ["x.parquet", "x.parquet.gz"])
def test_parquet_is_bounded_by_the_rows_in_it(name: str) -> None:
    content = parquet()
    content = gzip.compress(content) if name.endswith(".gz") else content
    batches = readers.batches(name, io.BytesIO(content), max_bytes=200_000)
    assert sum(lines.count(b"\n") for _, lines in batches) == 1000
    with pytest.raises(DataError, match=r"unfolds to more than dataset\.max_download_bytes=50000"):
        list(readers.batches(name, io.BytesIO(content), max_bytes=50_000))
