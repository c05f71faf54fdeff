"""Columns beside a conversation: what is read of them, refused, or said to be unread; and preference data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sft.chat.formats import Parser
from sft.chat.prompt import prompts
from sft.chat.row_reader import Columns
from sft.chat.sample import InvalidRow
from sft.chat.unread import MEANINGFUL_COLUMNS
from tests.unit.chat.test_turns import ANSWER, CONTEXT, USER, messages, parse

SYSTEM = {"role": "system", "content": "be brief"}
BAD = {"role": "assistant", "content": "5"}


@pytest.mark.parametrize("name", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "row",
    [{"messages": [USER, ANSWER]}, {"prompt": "2+2?", "completion": "4"}, {"instruction": "2+2?", "output": "4"}],
    ids=["messages", "prompt_completion", "alpaca"],
)
def test_a_system_column_is_the_system_turn_in_every_format(name: str, row: dict[str, Any]) -> None:
    assert messages({**row, name: "be brief"}) == [SYSTEM, USER, ANSWER]
    assert messages({**row, name: ""}) == messages({**row, name: None}) == [USER, ANSWER]


def test_a_system_column_that_contradicts_the_first_turn_is_refused() -> None:
    assert messages({"messages": [SYSTEM, USER, ANSWER], "system": "be brief"}) == [SYSTEM, USER, ANSWER]
    with pytest.raises(InvalidRow, match="two-spellings"):
        messages({"messages": [SYSTEM, USER, ANSWER], "system": "be long"})


@pytest.mark.parametrize("tools", [[{"name": "add"}], '[{"name": "add"}]', {"name": "add"}])
def test_tools_are_read_as_a_list_or_as_json_text(tools: object) -> None:
    for row in ({"messages": [USER, ANSWER]}, {"prompt": "2+2?", "completion": "4"}):
        assert json.loads(parse({**row, "tools": tools}).line)["tools"] == [{"name": "add"}]


def test_older_functions_are_tools() -> None:
    sample = json.loads(parse({"messages": [USER, ANSWER], "functions": [{"name": "add"}]}).line)
    assert sample["tools"] == [{"type": "function", "function": {"name": "add"}}]


@pytest.mark.parametrize("tools", ["[", "add", [4], 4])
def test_tools_that_are_none_are_refused(tools: object) -> None:
    with pytest.raises(InvalidRow, match="wrong-type: tools"):
        parse({"messages": [USER, ANSWER], "tools": tools})


def test_turns_are_read_from_json_text() -> None:
    assert messages({"messages": json.dumps([USER, ANSWER])}) == [USER, ANSWER]
    sharegpt = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
    assert messages({"conversations": json.dumps(sharegpt)}) == [USER, ANSWER]
    with pytest.raises(InvalidRow, match="wrong-type: messages is a text that is not JSON"):
        messages({"messages": "hello"}, "messages")


@pytest.mark.parametrize("name", sorted({*MEANINGFUL_COLUMNS} - {"history", "input", "context"}))
def test_a_column_that_changes_the_meaning_is_refused_until_it_is_ignored_or_kept(name: str) -> None:
    row = {"messages": [USER, ANSWER], name: [1]}
    with pytest.raises(InvalidRow, match=f"unread-field: `{name}` is not read"):
        parse(row)
    assert parse(row, ignore=[name]).unread == set()
    assert json.loads(parse(row, keep=[name]).line)["metadata"] == {name: [1]}
    assert messages({**row, name: []}) == messages({**row, name: None}) == [USER, ANSWER]


def test_a_column_that_changes_the_meaning_is_found_among_rows_at_once() -> None:
    parser = Parser("messages", Columns())
    plain = json.dumps({"messages": [USER, ANSWER], "id": 1, "images": None, "system": None}).encode()
    parser.one(plain)
    together = parser.many(plain + b"\n" + plain + b"\n")
    assert together
    assert together.passed_over == {"id": (2, 0)}
    assert together.lines == [parser.one(plain).line] * 2
    for name in ("images", "system"):
        other = json.dumps({"messages": [USER, ANSWER], name: "x"}).encode()
        assert parser.many(plain + b"\n" + other + b"\n") is None


@pytest.mark.parametrize("field", [{"train": False}, {"name": "a"}, {"weight": 0.5}, {"lang": "en"}], ids=str)
def test_a_turns_field_is_found_among_rows_at_once(field: dict[str, Any]) -> None:
    row = json.dumps({"messages": [USER, {**ANSWER, **field}, USER, ANSWER]}).encode()
    assert Parser("messages", Columns()).many(row + b"\n") is None


def test_weights_of_rows_at_once_are_what_they_are_one_by_one() -> None:
    parser = Parser("messages", Columns())
    unsaid = {**USER, "weight": 0}
    turns = [[unsaid, CONTEXT, USER, {**ANSWER, "weight": 1}], [USER, ANSWER, USER, CONTEXT]]
    rows = [json.dumps({"messages": each}).encode() for each in turns]
    together = parser.many(b"\n".join([*rows, b""]))
    assert together
    assert together.lines == [parser.one(row).line for row in rows]
    for refused in ([USER, CONTEXT], [{**USER, "weight": 1}, ANSWER]):
        assert parser.many(json.dumps({"messages": refused}).encode() + b"\n") is None


def test_a_false_unmask_says_nothing_and_a_true_one_names_the_setting() -> None:
    assert messages({"messages": [USER, ANSWER], "unmask": False}) == [USER, ANSWER]
    with pytest.raises(InvalidRow, match=r"training\.train_on=everything"):
        messages({"messages": [USER, ANSWER], "unmask": True})


def test_of_conversational_prompt_and_completion_only_the_completion_trains() -> None:
    row = {"prompt": [SYSTEM, USER, ANSWER, USER], "completion": [ANSWER]}
    assert messages(row) == [SYSTEM, USER, CONTEXT, USER, ANSWER]
    row["prompt"] = [USER, {**ANSWER, "weight": 1}, USER]
    assert messages(row) == [USER, ANSWER, USER, ANSWER]


def test_dollys_context_and_response_are_read() -> None:
    row = {"instruction": "2+2?", "context": "Count.", "response": "4", "category": "maths"}
    assert messages(row) == [{"role": "user", "content": "2+2?\n\nCount."}, ANSWER]
    assert parse(row).unread == {"category"}
    assert messages({"instruction": "", "input": "2+2?", "output": "4"}) == [USER, ANSWER]


def test_a_context_beside_a_prompt_is_refused() -> None:
    with pytest.raises(InvalidRow, match="`context` is not read: the answer may need it"):
        messages({"prompt": "2+2?", "completion": "4", "context": "Count."})


PREFERENCES = {
    "texts": ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, [USER, ANSWER]),
    "turns": ({"prompt": [USER], "chosen": [ANSWER], "rejected": [BAD]}, [USER, ANSWER]),
    "implicit prompt": (
        {"chosen": [USER, ANSWER, USER, ANSWER], "rejected": [USER, ANSWER, USER, BAD]},
        [USER, CONTEXT, USER, ANSWER],
    ),
    "prompt and whole conversation": (
        {"prompt": "2+2?", "messages": [USER, ANSWER], "chosen": [USER, ANSWER], "rejected": [USER, BAD]},
        [USER, ANSWER],
    ),
    "turns and one answer": (
        {
            "conversations": [{"from": "human", "value": "2+2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        [USER, ANSWER],
    ),
}


@pytest.mark.parametrize("kind", PREFERENCES)
def test_preference_data_is_refused_unless_its_chosen_answers_are_asked_for(kind: str) -> None:
    row, expected = PREFERENCES[kind]
    with pytest.raises(InvalidRow, match="preference: the row has a `chosen` and a `rejected` answer"):
        messages(row)
    assert messages(row, "preference") == expected


@pytest.mark.parametrize("name", ["prompt", "messages"])
def test_turns_before_a_chosen_conversation_are_its_context(name: str) -> None:
    other = {"role": "user", "content": "3+3?"}
    answers = {"chosen": [other, ANSWER], "rejected": [other, BAD]}
    assert messages({name: [SYSTEM, USER, ANSWER], **answers}, "preference") == [SYSTEM, USER, CONTEXT, other, ANSWER]
    assert messages({name: [SYSTEM], **answers}, "preference") == [SYSTEM, other, ANSWER]
    whole = {"chosen": [USER, ANSWER, other, ANSWER], "rejected": [USER, ANSWER, other, BAD]}
    for before in ([USER], [USER, ANSWER], [USER, ANSWER, other], [USER, ANSWER, other, ANSWER], [], None):
        assert messages({name: before, **whole}, "preference") == [USER, CONTEXT, other, ANSWER]


@pytest.mark.parametrize(
    "before",
    [
        {"prompt": "You answer only in French."},
        {"prompt": [SYSTEM, {"role": "user", "content": "3+3?"}]},
        {"messages": [{"role": "user", "content": "3+3?"}]},
        {"prompt": [USER, BAD, USER]},
    ],
    ids=str,
)
def test_a_prompt_that_a_chosen_conversation_contradicts_is_refused(before: dict[str, Any]) -> None:
    with pytest.raises(InvalidRow, match=f"two-spellings: chosen begins with another turn than {next(iter(before))}"):
        messages({**before, "chosen": [USER, ANSWER], "rejected": [USER, BAD]}, "preference")


def test_a_chosen_conversation_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRow, match="wrong-type: chosen is a number"):
        messages({"chosen": 4, "rejected": 5}, "preference")
    with pytest.raises(InvalidRow, match="empty-messages"):
        messages({"prompt": "2+2?", "chosen": [], "rejected": []}, "preference")


TURNS_AS_TEXT = {
    "prompt": ({"prompt": [SYSTEM, USER], "completion": "4"}, None),
    "completion": ({"prompt": "2+2?", "completion": [ANSWER]}, None),
    "both": ({"prompt": [USER], "completion": [{"from": "gpt", "value": "4"}]}, None),
    "chosen": ({"prompt": "2+2?", "chosen": [USER, ANSWER], "rejected": [USER, BAD]}, "preference"),
    "whole conversations": (
        {"chosen": [USER, ANSWER, USER, ANSWER], "rejected": [USER, ANSWER, USER, BAD]},
        "preference",
    ),
}


@pytest.mark.parametrize("kind", TURNS_AS_TEXT)
def test_turns_as_json_text_are_turns_in_every_column(kind: str) -> None:
    row, given = TURNS_AS_TEXT[kind]
    texts = {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
    assert messages(texts, given) == messages(row, given)


@pytest.mark.parametrize("name", ["prompt", "completion"])
@pytest.mark.parametrize("spell", [str, lambda turns: json.dumps(turns)[:-3]], ids=["pandas", "cut"])
def test_turns_as_a_text_that_is_not_json_are_refused(name: str, spell: Any) -> None:
    row = {"prompt": "2+2?", "completion": "4", name: spell([USER if name == "prompt" else ANSWER])}
    with pytest.raises(InvalidRow, match=f"wrong-type: {name} looks like turns and is not JSON"):
        messages(row)


@pytest.mark.parametrize("text", ['[{"from": "Rome", "to": "Paris"}]', "[{'a': 1}]", '[{"role": "clerk"}, 4]', "[{"])
def test_a_text_that_only_looks_like_a_list_stays_one(text: str) -> None:
    assert messages({"prompt": "2+2?", "completion": text}) == [USER, {**ANSWER, "content": text}]


def test_ignoring_the_answers_trains_the_turns_beside_them() -> None:
    row, _ = PREFERENCES["prompt and whole conversation"]
    assert messages(row, ignore=["chosen", "rejected", "prompt"]) == [USER, ANSWER]


def test_a_column_named_by_a_setting_is_a_choice() -> None:
    row, expected = PREFERENCES["texts"]
    assert messages(row, completion="chosen") == expected


@pytest.mark.parametrize(("true", "false"), [(True, False), (1, 0), ("1", "0"), ("True", "False"), (1.0, 0.0)])
def test_an_answer_to_avoid_is_refused_or_left_out(true: object, false: object) -> None:
    good, bad = ({"prompt": "2+2?", "completion": "4", "label": label} for label in (true, false))
    assert messages(good) == messages(good, "preference") == [USER, ANSWER]
    with pytest.raises(InvalidRow, match="preference: label is false"):
        messages(bad)
    with pytest.raises(InvalidRow, match="not-chosen"):
        messages(bad, "preference")


@pytest.mark.parametrize("label", [3, "good", None, "", [0]])
def test_a_label_that_is_neither_true_nor_false_is_no_preference(label: object) -> None:
    row = {"prompt": "2+2?", "completion": "4", "label": label}
    with pytest.raises(InvalidRow, match="wrong-type: label is neither true"):
        messages(row, "preference")
    assert messages(row) == [USER, ANSWER]


def test_a_label_that_may_be_a_class_is_not_read() -> None:
    good = {"prompt": "2+2?", "completion": "4"}
    assert parse({"messages": [USER, ANSWER], "label": 0}).unread == {"label"}
    with pytest.raises(InvalidRow, match="preference: label is false"):
        messages({"messages": [USER, ANSWER], "label": False})
    assert parse({**good, "label": 3}).unread == {"label"}


def test_a_flag_on_a_users_turn_does_not_make_another_prompt() -> None:
    parser = Parser("messages", Columns())
    rows = [json.dumps({"messages": [turn, ANSWER]}).encode() for turn in (USER, {**USER, "weight": 0})]
    plain, flagged = prompts([parser.one(row).line for row in rows])
    assert plain == flagged
