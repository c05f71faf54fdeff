"""Each kind of file gives the same rows; a damaged one says so."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet
import pytest

from sft.adapters import json_rows, readers, row_batches
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
    """Rows with their numbers; empty lines are none."""
    rows: list[tuple[int, bytes]] = []
    for number, lines in readers.batches(name, io.BytesIO(content)):
        assert lines.endswith(b"\n")
        rows += [entry for entry in enumerate(lines.split(b"\n"), start=number) if entry[1]]
    return rows


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_of_file_gives_the_same_rows(name: str) -> None:
    found = read(name, MAKERS[name]())
    assert [json.loads(row) for _, row in found] == ROWS
    numbers = [2, 3, 5] if ".csv" in name else [1, 2, 3]  # the header is line 1, and one text has two lines
    assert [number for number, _ in found] == numbers


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl.gz", gzip.compress(jsonl(), mtime=0)[:-12]),
        ("x.jsonl.gz", b"not gzip"),
        ("x.json", b'[{"a": 1}'),
        ("x.json", b'{\n"a": 1}'),
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
    monkeypatch.setattr(row_batches, "MAX_ROW_BYTES", 100)
    with pytest.raises(DataError, match="line 2 is longer"):
        read("x.jsonl", b'{"a":1}\n' + b"x" * 200)


def test_a_row_may_be_longer_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "_BLOCK_BYTES", 10)
    rows = [f'{{"a":"{"x" * size}"}}'.encode() for size in (1, 30, 3, 0, 100)]
    assert read("x.jsonl", b"\n".join(rows)) == list(enumerate(rows, start=1))


def in_parquet(**columns: pa.Array) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def values(name: str, content: bytes) -> list[object]:
    return [json.loads(row) for _, row in read(name, content)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n3\n", r"line 3: 1 of the header's 2 fields"),
        (b'a,b\n"x\ny",2\n1,2,3\n', r"line 4: 3 of the header's 2 fields"),
        (b"a,b,a\n1,2,3\n", r"line 1: 'a' names two columns"),
        (b"a;b\n1;2\n", r"line 1: 'a;b' is one field; ';' does not part fields here: save it with commas"),
        (b"a\tb\n1\t2\n", r"line 1: 'a\\tb' is one field"),
        (b'a,b\n1,2\n"x\ny\n', r"line 3: not a valid \.csv file"),
    ],
    ids=["too few", "too many", "a name twice", "semicolons", "tabs", "an open quote"],
)
def test_a_crooked_csv_is_an_error_with_its_line(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"x\.csv: {message}"):
        read("x.csv", content)


def test_csv_fields_may_be_long_and_begin_with_a_byte_order_mark() -> None:
    text = "x" * 200_000
    assert values("x.csv", f"\ufeffa,b\n{text},2\n".encode()) == [{"a": text, "b": "2"}]


def test_a_csv_row_has_the_number_of_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 2, 1024):
        monkeypatch.setattr(row_batches, "BATCH_ROWS", size)
        found = read("x.csv", b'a,b\n"x\n\ny",2\n\n3,4\n')
        assert [(number, json.loads(row)["b"]) for number, row in found] == [(2, "2"), (6, "4")]


@pytest.mark.parametrize("lines", [b'{"a":1}\n{"a":2}\n', b'\xef\xbb\xbf{"a":1}\n{"a":2}', b' {"a":1}\n\n{"a":2}\n'])
def test_json_lines_in_a_json_file_are_read(lines: bytes) -> None:
    assert values("x.json", lines) == [{"a": 1}, {"a": 2}]


def test_a_broken_line_of_json_lines_in_a_json_file_keeps_its_number() -> None:
    assert read("x.json", b'{"a":\n{"a":2}\n') == [(1, b'{"a":'), (2, b'{"a":2}')]


@pytest.mark.parametrize(
    "array", [b'[{"a":1},{"a":2}]', b'[\n {"a":1},\n {"a":\n2}\n]\n', b'\xef\xbb\xbf[{"a":1},\n{"a":2}]']
)
def test_an_array_in_a_jsonl_file_is_read(array: bytes) -> None:
    assert values("x.jsonl", array) == [{"a": 1}, {"a": 2}]


def test_a_row_that_is_a_list_does_not_make_json_lines_an_array() -> None:
    for content in (b'[1]\n{"a":2}\n', b"[1]\n", b'[1\n{"a":2}\n'):
        assert read("x.jsonl", content) == list(enumerate(content.rstrip(b"\n").split(b"\n"), start=1))


def test_one_object_with_the_rows_inside_names_the_mend() -> None:
    with pytest.raises(DataError, match="holds one JSON object, with version, data; write its rows as an array"):
        read("x.json", b'{"version": 1,\n"data": [{"a":1}]}')


def test_json_nested_too_deeply_is_an_error() -> None:
    with pytest.raises(DataError, match="JSON nested too deeply"):
        read("x.json", b"[" * 100_000)
    assert read("x.jsonl", b"[" * 100_000) == [(1, b"[" * 100_000)]


@pytest.mark.parametrize("content", [pa.compress(jsonl() * 5000, codec="zstd", asbytes=True)[:-9], b"not zst"])
def test_a_damaged_zst_is_an_error_that_names_it(content: bytes) -> None:
    with pytest.raises(DataError, match=r"x\.jsonl\.zst: the compressed file is damaged or cut short"):
        read("x.jsonl.zst", content)


def test_times_and_decimals_of_parquet_are_texts() -> None:
    nanoseconds = pa.array([1_577_934_245_000_000_001, None], pa.timestamp("ns"))
    decimals = pa.array([Decimal("1.10"), None])
    rows = [{"t": "2020-01-02T03:04:05.000000001", "d": "1.10"}, {"t": None, "d": None}]
    assert values("x.parquet", in_parquet(t=nanoseconds, d=decimals)) == rows


def test_what_arrow_filled_in_is_taken_out_and_nulls_of_lists_stay() -> None:
    calls = [
        [{"name": "a", "arguments": {"x": 1}}],
        [{"name": "b", "arguments": {"y": [None, 1]}}, {"name": "c"}],
        None,
    ]
    assert values("x.parquet", in_parquet(calls=pa.array(calls))) == [{"calls": each} for each in calls]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"x"]),
        pa.array([1], pa.duration("ns")),
        pa.array([[{"deep": b"x"}]]),
        pa.array([2**55], pa.timestamp("ms")),
    ],
    ids=["binary", "duration", "nested", "a time out of range"],
)
def test_what_json_cannot_hold_is_refused_until_its_column_is_ignored(column: pa.Array) -> None:
    content = in_parquet(a=pa.array(["text"]), other=column)
    with pytest.raises(DataError, match=r"x\.parquet: .*JSON can't.*\n  try: leave .*dataset\.ignore_fields"):
        read("x.parquet", content)
    [(_, rows)] = readers.batches("x.parquet", io.BytesIO(content), ["other", "absent"])
    assert json.loads(rows) == {"other": None, "a": "text"}
