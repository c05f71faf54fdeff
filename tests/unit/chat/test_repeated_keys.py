"""A key that an object has twice is refused by name, however a row is read; nothing else is taken for one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.chat.formats import Parser, recognise
from sft.chat.plain_rows import PlainRows
from sft.chat.repeated_keys import num_read, num_written, refuse, refuse_columns
from sft.chat.row_reader import Columns, raw_columns
from sft.chat.sample import InvalidRow

TURNS = '[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]'
REPEATED = {
    "messages": f'{{"messages":{TURNS},"messages":{TURNS}}}',
    "role": '{"messages":[{"role":"assistant","role":"user","content":"a"},{"role":"assistant","content":"b"}]}',
    "content": f'{{"messages":{TURNS.replace(":", " : ")[:-2]},"content":"c"}}]}}',
    "weight": f'{{"messages":{TURNS[:-2]},"weight":0,"weight":1}}]}}',
    "tools": f'{{"messages":{TURNS},"tools":[{{"name":"add"}}],"tools":null}}',
    "meta": f'{{"messages":{TURNS},"meta":{{"lang":"en"}},"meta":{{}}}}',
    "x": '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":[{"function":'
    '{"name":"f","arguments":"{\\"x\\": 1, \\"x\\": 2}"}}]}]}',
}


def json_of(texts: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    return st.recursive(st.none() | texts, lambda it: st.lists(it) | st.dictionaries(texts, it), max_leaves=8)


def one(row: str, **options: frozenset[str]) -> None:
    row_format, columns = recognise(row.encode(), Columns(**options), None)
    Parser(row_format, columns).one(row.encode())


@pytest.mark.parametrize("name", REPEATED)
def test_it_is_named(name: str) -> None:
    with pytest.raises(InvalidRow, match=f"repeated-key: '{name}' stands twice in one object"):
        one(REPEATED[name])


@pytest.mark.parametrize("name", sorted(REPEATED.keys() - {"x"}))
def test_many_rows_at_once_get_a_closer_look(name: str) -> None:
    rows = PlainRows()
    good = f'{{"messages":{TURNS},"meta":{{"lang":"en"}},"tools":null}}\n'
    rows.pass_over({"meta"}, null_only=set())
    assert rows.parse(f"{good}{good}".encode()) is not None
    assert rows.parse(f"{good}{REPEATED[name]}\n".encode()) is None


def test_a_column_that_is_left_out_may_say_anything() -> None:
    one(REPEATED["meta"], ignore=frozenset({"meta"}))


def test_a_key_that_is_written_otherwise_is_the_same_key() -> None:
    with pytest.raises(InvalidRow, match="'role' stands twice"):
        one(REPEATED["role"].replace('"role":"user"', '"r\\u006fle":"user"'))


@given(value=json_of(st.text(alphabet='a":\\ {}\n')))
def test_a_text_is_never_taken_for_a_key(value: object) -> None:
    text = json.dumps({"column": value}).encode()
    refuse(text, {"column": value})
    refuse_columns(text, raw_columns(text), ())


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,", " : ")])
@given(value=json_of(st.text(alphabet='a":\\ {}\n').map(lambda text: f"{text}a")))
def test_keys_and_texts_are_counted_as_they_are_written(separators: tuple[str, str], value: object) -> None:
    assert num_written(json.dumps(value, separators=separators).encode()) == num_read(value)
