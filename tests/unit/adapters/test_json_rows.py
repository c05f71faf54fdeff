"""An array is read item by item, whatever its size and wherever the blocks of the file end."""

from __future__ import annotations

import io
import json
import tracemalloc

import pytest

from sft.adapters import json_rows, row_batches
from sft.adapters.json_rows import array_items
from sft.adapters.row_batches import Batch, DamagedFileError

ITEMS = [{"a": 'quote " and \\ and ] } [ {', "b": [1, {"c": []}]}, {}, [], "text, ]", 1.5e3, None, {"ü": "\\\\"}]
TEXTS = [
    json.dumps(ITEMS),
    json.dumps(ITEMS, indent=1, ensure_ascii=False),
    f"\ufeff  {json.dumps(ITEMS, separators=(',', ':'))} \r\n",
]


def items(content: bytes, begin: int = 0) -> list[object]:
    lines = list(array_items(content[:begin], io.BytesIO(content[begin:])))
    assert all(line.count(b"\n") == 1 for line in lines)
    return [json.loads(line) for line in lines]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files of more than 64 bytes be large ones."""
    monkeypatch.setattr(json_rows, "_WHOLE_BYTES", 64)
    monkeypatch.setattr(row_batches, "MAX_ROW_BYTES", 64)
    monkeypatch.setattr(json_rows, "_BLOCK_BYTES", 8)


@pytest.mark.parametrize("text", TEXTS, ids=["plain", "indented", "narrow"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_an_array_has_the_items_that_json_reads_in_it(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "_BLOCK_BYTES", size)
    content = text.encode()
    for begin in (3, 5, len(content)):
        assert items(content, begin) == ITEMS


def test_an_array_may_be_empty() -> None:
    assert items(b"[]") == items(b" [ \n ] ") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a":1} {"a":2}]', "after 1 items comes '{', not ]"),
        (b'[{"a":1},]', "after 1 items comes ']', not a value"),
        (b'[,{"a":1}]', "after 0 items comes ',', not a value"),
        (b'[{"a":1}', "after 1 items comes its end, not ]"),
        (b'[{"a":1}, {"a":', "it ends within item 2"),
        (b'[{"a":1}, "te', "it ends within item 2"),
        (b'[{"a":1}] x', "after the array comes b'x'"),
        (b'{"a":1}', r"after 0 items comes '{', not \["),
        (b"", r"after 0 items comes its end, not \["),
    ],
)
def test_what_is_no_array_says_where_it_ends(content: bytes, message: str) -> None:
    with pytest.raises(DamagedFileError, match=message):
        items(content)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("item", [b'{"a":"' + b"x" * 100, b"[" * 100, b'"' + b"x" * 100, b"1" * 100])
def test_an_item_without_end_is_refused(item: bytes) -> None:
    with pytest.raises(DamagedFileError, match="item 2 is longer than"):
        items(b"[{}, " + item)


def rows(batches: list[Batch]) -> list[object]:
    return [json.loads(line) for _, lines in batches for line in lines.splitlines() if line]


@pytest.mark.usefixtures("small")
def test_large_files_are_read_as_what_they_are() -> None:
    objects = [{"a": number} for number in range(40)]
    lines = "".join(f"{json.dumps(each)}\n" for each in objects).encode()
    for array in (json.dumps(objects).encode(), json.dumps(objects, indent=2).encode()):
        assert rows(list(json_rows.jsonl(io.BytesIO(array)))) == objects
        assert rows(list(json_rows.json(io.BytesIO(array)))) == objects
    assert rows(list(json_rows.json(io.BytesIO(lines)))) == objects
    assert rows(list(json_rows.jsonl(io.BytesIO(b"[1]\n" + lines)))) == [[1], *objects]
    broken = list(json_rows.json(io.BytesIO(b'{"a":\n' + lines)))
    assert (broken[0][0], b"".join(batch for _, batch in broken)) == (1, b'{"a":\n' + lines)


@pytest.mark.usefixtures("small")
def test_a_large_object_is_no_file_of_rows() -> None:
    with pytest.raises(DamagedFileError, match="begins with one JSON object of many lines"):
        list(json_rows.json(io.BytesIO(b'{"data": [\n' + b'"x",\n' * 100)))
    with pytest.raises(DamagedFileError, match="line 1 is longer"):
        list(json_rows.json(io.BytesIO(b'{"a":"' + b"x" * 1000)))


def test_no_more_than_a_row_of_an_array_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "_WHOLE_BYTES", 1 << 16)
    monkeypatch.setattr(row_batches, "MAX_ROW_BYTES", 1 << 16)
    file = io.BytesIO(b"[" + b",".join([b'{"a":"' + b"x" * 1000 + b'"}'] * 8000) + b"]")
    tracemalloc.start()
    try:
        num_rows = sum(lines.count(b"\n") for _, lines in json_rows.json(file))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert num_rows == 8000
    assert peak < 5 << 20
