"""Who trains, calls of tools, and fields of a turn that are not read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from sft.chat.formats import Format, ParsedRow, Parser, recognise
from sft.chat.row_reader import Columns
from sft.chat.sample import InvalidRow

USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
CONTEXT = {**ANSWER, "weight": 0}
RESULT = {"role": "tool", "content": "4"}


def named(*, ignore: Sequence[str] = (), **columns: Any) -> Columns:
    return Columns(ignore=frozenset(ignore), **columns)


def parse(content: dict[str, Any], given: Format | None = None, **columns: Any) -> ParsedRow:
    raw = json.dumps(content).encode()
    row_format, names = recognise(raw, named(**columns), given)
    return Parser(row_format, names, takes_preferences=given == "preference").one(raw)


def messages(content: dict[str, Any], given: Format | None = None, **columns: Any) -> Any:
    return json.loads(parse(content, given, **columns).line)["messages"]


@pytest.mark.parametrize(
    "flag",
    [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"loss": False}, {"loss_mask": 0}, {"trainable": False}],
    ids=str,
)
def test_a_turn_that_does_not_train_is_context_in_every_spelling(flag: dict[str, Any]) -> None:
    assert messages({"messages": [USER, {**ANSWER, **flag}, USER, ANSWER]}) == [USER, CONTEXT, USER, ANSWER]
    human, gpt = {"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}
    assert messages({"conversations": [human, {**gpt, **flag}, human, gpt]}) == [USER, CONTEXT, USER, ANSWER]


@pytest.mark.parametrize("flag", [{"weight": 1}, {"train": True}, {"loss": True}, {"loss_mask": 1}, {"weight": None}])
def test_a_turn_that_trains_needs_no_flag(flag: dict[str, Any]) -> None:
    assert messages({"messages": [{**USER}, {**ANSWER, **flag}]}) == [USER, ANSWER]


@pytest.mark.parametrize("value", [0.5, 2, -1, "0", "false", [0]])
@pytest.mark.parametrize("name", ["weight", "train", "loss", "loss_mask"])
def test_any_other_value_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidRow, match=f"bad-weight: turn 2: {name} is"):
        messages({"messages": [USER, {**ANSWER, name: value}]})


def test_flags_that_disagree_are_refused() -> None:
    with pytest.raises(InvalidRow, match="bad-weight: turn 2: weight and train contradict"):
        messages({"messages": [USER, {**ANSWER, "weight": 1, "train": False}]})
    assert messages({"messages": [USER, {**ANSWER, "weight": 1, "train": True}]}) == [USER, ANSWER]


@pytest.mark.parametrize("turn", [USER, {"role": "system", "content": "be brief"}])
def test_a_flag_on_another_role_may_only_say_what_holds_anyway(turn: dict[str, Any]) -> None:
    rest = [ANSWER] if turn is USER else [USER, ANSWER]
    assert messages({"messages": [{**turn, "weight": 0}, *rest]}) == [{**turn, "weight": 0}, *rest]  # for `everything`
    with pytest.raises(InvalidRow, match="user-weight: turn 1, of the"):
        messages({"messages": [{**turn, "train": True}, *rest]})


def test_a_row_in_which_nothing_trains_is_refused() -> None:
    with pytest.raises(InvalidRow, match="nothing-to-train: turns 2, 4 carry no loss"):
        messages({"messages": [USER, CONTEXT, USER, CONTEXT]})


@pytest.mark.parametrize("empty", [{}, {"content": None}, {"content": []}])
@pytest.mark.parametrize("role", ["user", "system", "assistant", "tool"])
def test_a_turn_without_content_is_refused(role: str, empty: dict[str, Any]) -> None:
    turns = {
        "user": [{"role": "user", **empty}, ANSWER],
        "system": [{"role": "system", **empty}, USER, ANSWER],
        "assistant": [USER, {"role": "assistant", **empty}],
        "tool": [USER, {"role": "assistant", "tool_calls": [call({})]}, {"role": "tool", **empty}, ANSWER],
    }
    with pytest.raises(InvalidRow, match=f"of the {role}, has no content"):
        messages({"messages": turns[role]})


def test_a_tool_may_return_nothing() -> None:
    turns = [USER, {"role": "assistant", "tool_calls": [call({})]}, {"role": "tool", "content": ""}, ANSWER]
    assert messages({"messages": turns})[2] == {"role": "tool", "content": ""}


def call(arguments: object) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "add", "arguments": arguments}}


def calls_of(turn: dict[str, Any], **row: Any) -> Any:
    return messages({"messages": [USER, {"role": "assistant", **turn}], **row})[1]["tool_calls"]


@pytest.mark.parametrize(
    "turn",
    [
        {"tool_calls": [call({"a": 2})]},
        {"tool_calls": [call('{"a": 2}')]},
        {"tool_calls": json.dumps([call({"a": 2})])},
        {"tool_calls": [{"name": "add", "arguments": {"a": 2}}]},
        {"function_call": {"name": "add", "arguments": '{"a": 2}'}},
    ],
    ids=["object", "text", "all as text", "without wrapping", "older spelling"],
)
def test_a_call_is_the_same_in_every_spelling(turn: dict[str, Any]) -> None:
    assert calls_of(turn) == [call({"a": 2})]


@pytest.mark.parametrize("nothing", [None, "", "{}", {}, "null"])
def test_a_call_may_have_no_arguments(nothing: object) -> None:
    assert calls_of({"tool_calls": [call(nothing)]}) == [call({})]


@pytest.mark.parametrize("arguments", ["{", "[1]", [1], 4, "four", "[" * 100_000])
def test_arguments_that_are_no_object_are_refused(arguments: object) -> None:
    with pytest.raises(InvalidRow, match="bad-tool-call: turn 2, call 1"):
        calls_of({"tool_calls": [call(arguments)]})


def test_a_sharegpt_call_and_its_observation_are_read() -> None:
    turns = [("human", "2+2?"), ("function_call", '{"name": "add", "arguments": {"a": 2}}'), ("observation", "4")]
    row = {"conversations": [{"from": who, "value": text} for who, text in [*turns, ("gpt", "4")]]}
    called = {"role": "assistant", "content": "", "tool_calls": [call({"a": 2})]}
    assert messages(row) == [USER, called, RESULT, ANSWER]


def test_arguments_that_the_tool_does_not_declare_and_that_are_null_are_arrows_fill() -> None:
    tool = {
        "type": "function",
        "function": {"name": "add", "parameters": {"properties": {"a": {}, "b": {}, "x": None}}},
    }
    filled = call({"a": 2, "b": None, "city": None})
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [filled]}], "tools": [tool]}
    sample = json.loads(parse(row).line)
    assert sample["messages"][1]["tool_calls"] == [call({"a": 2, "b": None})]
    assert sample["tools"][0]["function"]["parameters"] == {"properties": {"a": {}, "b": {}}}


def test_nulls_of_a_schema_that_are_values_stay() -> None:
    tool = {"name": "add", "parameters": {"properties": {"a": {"default": None, "enum": [None, 1], "title": None}}}}
    [kept] = json.loads(parse({"messages": [USER, ANSWER], "tools": [tool]}).line)["tools"]
    assert kept["parameters"]["properties"]["a"] == {"default": None, "enum": [None, 1]}


def test_hermes_calls_stay_text_and_a_tools_turn_may_follow() -> None:
    text = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
    row = {"conversations": [{"from": who, "value": v} for who, v in [("human", "2+2?"), ("gpt", text), ("tool", "4")]]}
    row["conversations"].append({"from": "gpt", "value": "4"})
    assert messages(row) == [USER, {"role": "assistant", "content": text}, RESULT, ANSWER]
    row["conversations"][1]["value"] = "no call"
    with pytest.raises(InvalidRow, match="roles-out-of-order: turn 3 is tool"):
        messages(row)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_read_in_every_spelling(name: str) -> None:
    row = {"messages": [USER, {**ANSWER, name: "two and two"}]}
    assert messages(row) == [USER, {**ANSWER, "reasoning_content": "two and two"}]
    assert messages(row, ignore=[name]) == [USER, ANSWER]


def test_fields_that_are_not_read_are_named_by_where_they_stand() -> None:
    part = {"type": "text", "text": "2+2?", "cache_control": {"type": "ephemeral"}}
    called = {"role": "assistant", "tool_calls": [{**call({}), "index": 0}], "refusal": None, "lang": "en"}
    row = {"messages": [{"role": "user", "content": [part]}, called], "id": 7, "tags": [], "note": None}
    names = {"id", "messages[].lang", "messages[].content[].cache_control", "messages[].tool_calls[].index"}
    assert parse(row).unread == names


@pytest.mark.parametrize(
    "turn",
    [{"images": ["a.png"]}, {"audio": {"id": "1"}}, {"mask": 1}, {"train_detail": [{}]}],
    ids=str,
)
def test_a_field_of_a_turn_that_changes_its_meaning_is_refused_until_it_is_ignored(turn: dict[str, Any]) -> None:
    [name] = turn
    row = {"messages": [USER, {**ANSWER, **turn}]}
    with pytest.raises(InvalidRow, match=f"unread-field: turn 2: `{name}` is not read"):
        parse(row)
    assert parse(row, ignore=[name]).ignored == {name}
