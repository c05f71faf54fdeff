"""Each kind of file gives the same rows; a damaged one says so."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet
import pytest

from sft.adapters import readers
from sft.errors import DataError

ROWS = [{"a": "eins", "b": "1"}, {"a": 'zwei, "2"\nZeile', "b": "2"}, {"a": "drei ü", "b": "3"}]


def jsonl() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), buffer)
    return buffer.getvalue()


def csv_text() -> bytes:
    return 'a,b\neins,1\n"zwei, ""2""\nZeile",2\ndrei ü,3\n'.encode()


MAKERS: dict[str, Callable[[], bytes]] = {
    "x.jsonl": jsonl,
    "x.json": lambda: json.dumps(ROWS).encode(),
    "x.csv": csv_text,
    "x.parquet": parquet,
    "x.jsonl.gz": lambda: gzip.compress(jsonl()),
    "x.jsonl.zst": lambda: pa.compress(jsonl(), codec="zstd", asbytes=True),
    "x.csv.gz": lambda: gzip.compress(csv_text()),
}


def read(name: str, content: bytes) -> list[tuple[int, bytes]]:
    rows = []
    for number, lines in readers.batches(name, io.BytesIO(content)):
        assert lines.endswith(b"\n")
        rows += list(enumerate(lines.split(b"\n")[:-1], start=number))
    return rows


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_of_file_gives_the_same_rows(name: str) -> None:
    found = read(name, MAKERS[name]())
    assert [json.loads(row) for _, row in found] == ROWS
    assert [number for number, _ in found] == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl.gz", gzip.compress(jsonl(), mtime=0)[:-12]),
        ("x.jsonl.gz", b"not gzip"),
        ("x.json", b'[{"a": 1}'),
        ("x.json", b'{"a": 1}'),
        ("x.csv", b'a,b\n"open quote'),
        ("x.csv", b"a,b\n\xff,1\n"),
        ("x.parquet", b"PAR1 no"),
        ("x.txt", b"hello"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(name: str, content: bytes) -> None:
    with pytest.raises(DataError, match=r"x\."):
        read(name, content)


def test_line_numbers_count_blank_lines() -> None:
    assert [number for number, row in read("x.jsonl", b'\n{"a":1}\n\n{"a":2}') if row] == [2, 4]


def test_a_byte_order_mark_is_not_content_and_crlf_is_white_space() -> None:
    assert read("x.jsonl", b'\xef\xbb\xbf{"a":1}\r\n{"a":2}\r\n') == [(1, b'{"a":1}\r'), (2, b'{"a":2}\r')]


def test_an_endless_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_ROW_BYTES", 100)
    with pytest.raises(DataError, match="line 2 is longer"):
        read("x.jsonl", b'{"a":1}\n' + b"x" * 200)


def test_a_row_may_be_longer_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 10)
    rows = [f'{{"a":"{"x" * size}"}}'.encode() for size in (1, 30, 3, 0, 100)]
    assert read("x.jsonl", b"\n".join(rows)) == list(enumerate(rows, start=1))
