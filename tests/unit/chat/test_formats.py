"""Every format becomes the same canonical sample; every rule has a row that breaks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.chat.formats import Format, Parser, recognise
from sft.chat.row_reader import Columns
from sft.chat.sample import LEFT_OUT_BY_CHOICE, RULES, InvalidRow

USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "be brief"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "content": "4", "tool_call_id": "1"}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}


def row(*messages: object) -> bytes:
    return json.dumps({"messages": messages}).encode()


BROKEN = {
    "not-utf8": b'{"messages": [{"role": "user", "content": "\xff"}]}',
    "not-json": b'{"messages": [',
    "not-object": b"[1, 2]",
    "missing-column": b'{"text": "hello"}',
    "wrong-type": row({"role": "user", "content": 4}),
    "not-text": row(IMAGE, ANSWER),
    "unknown-role": row({"role": "bot", "content": "hi"}),
    "empty-messages": row(),
    "system-not-first": row(USER, ANSWER, SYSTEM, USER, ANSWER),
    "roles-out-of-order": row(USER, USER, ANSWER),
    "no-assistant": row(USER),
    "trailing-user": row(USER, ANSWER, USER),
    "empty-answer": row(USER, {"role": "assistant", "content": " \n"}),
    "no-content": row({"role": "user"}, ANSWER),
    "bad-tool-call": row(USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}),
    "bad-weight": row(USER, {**ANSWER, "weight": 0.5}),
    "user-weight": row({**USER, "weight": 1}, ANSWER),
    "two-spellings": row(USER, {**ANSWER, "thinking": "a", "reasoning": "b"}),
    "repeated-key": row(USER, ANSWER).replace(b'"content": "4"', b'"content": "5", "content": "4"'),
    "unread-field": json.dumps({"messages": [USER, ANSWER], "images": ["a.png"]}).encode(),
    "preference": json.dumps({"prompt": "2+2?", "chosen": "4", "rejected": "5"}).encode(),
    "nothing-to-train": row(USER, {**ANSWER, "weight": 0}),
}
NEED_A_TOKENIZER = {"nothing-for-the-loss", "too-long", "template-error", "unrendered", "special-token"}


def parse(content: bytes | dict[str, Any], given: Format | None = None, **options: Any) -> dict[str, Any]:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    system_prompt = options.pop("system_prompt", None)
    row_format, columns = recognise(raw, Columns(**options), given)
    takes_preferences = given == "preference"
    parser = Parser(row_format, columns, system_prompt=system_prompt, takes_preferences=takes_preferences)
    result: dict[str, Any] = json.loads(parser.one(raw).line)
    return result


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_row_names_its_rule(rule: str) -> None:
    with pytest.raises(InvalidRow) as caught:
        parse(BROKEN[rule])
    assert caught.value.rule == rule
    assert caught.value.found


@pytest.mark.parametrize("rule", sorted(set(BROKEN) - {"missing-column", "preference"}))
def test_a_broken_row_among_good_ones_names_its_rule(rule: str) -> None:
    with pytest.raises(InvalidRow) as caught:
        Parser("messages", Columns()).one(BROKEN[rule])
    assert caught.value.rule == rule


def test_every_rule_has_a_row_that_breaks_it() -> None:
    assert set(BROKEN) | {"empty-text"} | NEED_A_TOKENIZER | LEFT_OUT_BY_CHOICE == set(RULES)


def test_every_rule_has_its_line_in_the_docs() -> None:
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    assert [rule for rule in RULES if f"| `{rule}` |" not in text] == []


@pytest.mark.parametrize(
    "content",
    [b"", b'{"messages":' + b"[" * 100_000, b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b"\x00\x00"],
    ids=["empty", "deeply nested", "half a surrogate pair", "NUL bytes"],
)
def test_hostile_bytes_are_refused_as_a_row(content: bytes) -> None:
    for given in (None, "messages"):
        with pytest.raises(InvalidRow):
            parse(content, given)
    with pytest.raises(InvalidRow):
        Parser("messages", Columns()).one(content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"messages": [USER, ANSWER]}, "messages"),
        ({"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}, "conversations"),
        ({"messages": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}, "conversations"),
        ({"conversations": [USER, ANSWER]}, "messages"),
        ({"instruction": "2+2?", "output": "4", "input": ""}, "alpaca"),
        ({"prompt": "2+2?", "completion": "4"}, "prompt_completion"),
    ],
)
def test_auto_recognises_the_format_and_all_give_the_same_sample(content: dict[str, Any], expected: Format) -> None:
    assert recognise(json.dumps(content).encode(), Columns(), None)[0] == expected
    assert parse(content) == parse(content, expected) == {"messages": [USER, ANSWER]}


def test_alpaca_puts_history_first_and_the_input_under_the_instruction() -> None:
    content = {"instruction": "add", "input": "2 2", "output": "4", "system": "be brief", "history": [["hi", "hello"]]}
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    assert parse(content)["messages"] == [SYSTEM, *history, {"role": "user", "content": "add\n\n2 2"}, ANSWER]


def test_tools_calls_and_results_are_kept() -> None:
    reasoned = {**ANSWER, "reasoning_content": "two and two"}
    sample = parse({"messages": [USER, CALL, RESULT, reasoned], "tools": [{"name": "add"}]})
    [call] = CALL["tool_calls"]
    called = {**CALL, "content": "", "tool_calls": [{**call, "function": {"name": "add", "arguments": {}}}]}
    assert sample == {"messages": [USER, called, RESULT, reasoned], "tools": [{"name": "add"}]}


@pytest.mark.parametrize(
    "messages",
    [[USER, RESULT, ANSWER], [USER, CALL, ANSWER], [USER, CALL, USER, ANSWER], [ANSWER], [USER, ANSWER, ANSWER]],
    ids=["result without call", "call without result", "user after call", "assistant first", "two assistants"],
)
def test_turns_out_of_order_are_refused(messages: list[Any]) -> None:
    with pytest.raises(InvalidRow, match="roles-out-of-order"):
        parse(row(*messages))


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]
    assert parse(row({"role": "user", "content": parts}, ANSWER))["messages"][0] == USER


def test_a_developer_turn_may_come_first() -> None:
    messages = [{"role": "developer", "content": "be brief"}, USER, ANSWER]
    assert parse(row(*messages))["messages"] == messages


def test_further_fields_and_columns_are_left_out_unless_kept() -> None:
    content = {"messages": [{**USER, "lang": "en"}, ANSWER], "id": 7, "tags": ["a", {"b": None}]}
    assert parse(content) == {"messages": [USER, ANSWER]}
    assert parse(content, keep=["id", "tags", "absent"])["metadata"] == {"id": 7, "tags": ["a", {"b": None}]}


def test_system_prompt_is_added_where_there_is_none() -> None:
    assert parse(row(USER, ANSWER), system_prompt="be brief")["messages"] == [SYSTEM, USER, ANSWER]
    assert parse(row(SYSTEM, USER, ANSWER), system_prompt="other")["messages"] == [SYSTEM, USER, ANSWER]


def test_columns_are_taken_by_name() -> None:
    named = {"question": "2+2?", "answer": "4", "source": "x"}
    assert parse(named, prompt="question", completion="answer") == {"messages": [USER, ANSWER]}
    assert parse({"chat": [USER, ANSWER]}, messages="chat") == {"messages": [USER, ANSWER]}


def test_a_missing_column_lists_those_that_are_there() -> None:
    parser = Parser("prompt_completion", Columns())
    with pytest.raises(InvalidRow, match=r"`prompt`.*question, answer"):
        parser.one(b'{"question": "2+2?", "answer": "4"}')


def test_rows_at_once_are_what_they_are_one_by_one() -> None:
    parser = Parser("messages", Columns())
    single = [row(USER, ANSWER), row({"content": "9", "role": "user"}, ANSWER)]
    others = [row(SYSTEM, USER, ANSWER), row(USER, ANSWER, USER, ANSWER)]
    for rows in (single, [*single, *others], others, single):
        together = parser.many(b"\n".join([*rows, b""]))
        assert together
        assert together.lines == [parser.one(each).line for each in rows]


TOOLS = json.dumps({"messages": [USER, ANSWER], "tools": [{"name": "add"}]}).encode()


@pytest.mark.parametrize("other", [*BROKEN.values(), TOOLS, b"", b'{"messages":[]} {"messages":[]}'])
def test_rows_at_once_are_none_where_one_is_broken_or_needs_a_closer_look(other: bytes) -> None:
    assert Parser("messages", Columns()).many(row(USER, ANSWER) + b"\n" + other + b"\n") is None


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\tb", "\u0000"])
def test_a_column_may_have_any_name(name: str) -> None:
    other = json.dumps({"messages": [USER, ANSWER], name: 1}).encode()
    parser = Parser("messages", Columns())
    assert parser.many(other + b"\n") is None
    assert parser.one(other).unread == {name}
    assert parser.many(other + b"\n") is None  # each such row gets a closer look


def test_raw_text_is_one_turn_of_its_own_role_without_a_system_prompt() -> None:
    sample = {"messages": [{"role": "text", "content": "Once upon a time.\n"}]}
    assert parse({"text": "Once upon a time.\n"}, "text", system_prompt="be brief") == sample
    assert parse({"body": "Once upon a time.\n", "system": "x"}, "text", text="body", keep=("system",)) == {
        **sample,
        "metadata": {"system": "x"},
    }


@pytest.mark.parametrize(
    ("content", "rule"),
    [({"text": " \n"}, "empty-text"), ({"text": ["a"]}, "wrong-type"), ({"content": "a"}, "missing-column")],
)
def test_a_row_without_text_is_refused(content: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidRow) as caught:
        parse(content, "text")
    assert caught.value.rule == rule


def test_raw_text_is_never_guessed_and_no_conversation_may_pretend_to_be_one() -> None:
    with pytest.raises(InvalidRow):
        parse({"text": "hello"})
    for turns in ([{"role": "text", "content": "hello"}], [USER, {"role": "text", "content": "hello"}]):
        with pytest.raises(InvalidRow) as caught:
            parse(row(*turns), "messages")
        assert caught.value.rule == "unknown-role"
        assert Parser("messages", Columns()).many(row(*turns) + b"\n") is None


@pytest.mark.parametrize("ignored", ["weight", "tools"])
def test_what_is_ignored_is_so_in_rows_at_once_too(ignored: str) -> None:
    parser = Parser("messages", Columns(ignore=frozenset({ignored})))
    rows = [json.dumps({"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]}).encode()] * 3
    for row in rows:
        one = parser.one(row)
    at_once = parser.many(b"".join(row + b"\n" for row in rows))
    assert at_once is None or set(at_once.lines) == {one.line}
    assert (b'"weight"' in one.line) == (ignored != "weight")
