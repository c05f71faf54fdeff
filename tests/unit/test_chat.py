"""Every rule of a chat sample, and the canonical form."""

from __future__ import annotations

import json

import pytest

from sft import chat

COLUMNS = {"messages": "messages", "prompt": "prompt", "completion": "completion"}
USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "be brief"}

BROKEN = {
    "not-utf8": b'{"messages": [{"role": "user", "content": "\xff"}]}',
    "not-json": b'{"messages": [',
    "not-object": b"[1, 2]",
    "missing-column": b'{"text": "hello"}',
    "wrong-type": b'{"messages": [{"role": "user", "content": null}]}',
    "unknown-role": b'{"messages": [{"role": "bot", "content": "hi"}]}',
    "empty-messages": b'{"messages": []}',
    "system-not-first": json.dumps({"messages": [USER, SYSTEM, ANSWER]}).encode(),
    "roles-out-of-order": json.dumps({"messages": [USER, USER, ANSWER]}).encode(),
    "no-assistant": json.dumps({"messages": [USER]}).encode(),
    "trailing-user": json.dumps({"messages": [USER, ANSWER, USER]}).encode(),
    "empty-answer": json.dumps({"messages": [USER, {"role": "assistant", "content": " \n"}]}).encode(),
}


def parse(row: object, **options: str) -> dict[str, object]:
    decode = chat.parser("messages", COLUMNS, **options)
    result: dict[str, object] = json.loads(
        chat.encode(decode(row if isinstance(row, bytes) else json.dumps(row).encode()))
    )
    return result


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_row_names_its_rule(rule: str) -> None:
    with pytest.raises(chat.InvalidRow) as caught:
        parse(BROKEN[rule])
    assert caught.value.rule == rule
    assert caught.value.found


def test_every_rule_has_a_row_that_breaks_it() -> None:
    assert set(BROKEN) == set(chat.RULES)


@pytest.mark.parametrize(
    "row",
    [b"", b'{"messages":' + b"[" * 100_000, b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b"\x00\x00"],
    ids=["empty", "deeply nested", "half a surrogate pair", "NUL bytes"],
)
def test_hostile_bytes_are_refused_as_a_row(row: bytes) -> None:
    with pytest.raises(chat.InvalidRow):
        parse(row)


def test_a_sample_keeps_roles_and_content_only() -> None:
    assert parse({"messages": [{**USER, "weight": 1}, ANSWER], "id": 7}) == {"messages": [USER, ANSWER]}


def test_many_turns_may_alternate() -> None:
    messages = [SYSTEM, USER, ANSWER, USER, ANSWER]
    assert parse({"messages": messages})["messages"] == messages


def test_system_prompt_is_added_where_there_is_none() -> None:
    assert parse({"messages": [USER, ANSWER]}, system_prompt="be brief")["messages"] == [SYSTEM, USER, ANSWER]


def test_system_prompt_does_not_replace_one() -> None:
    assert parse({"messages": [SYSTEM, USER, ANSWER]}, system_prompt="other")["messages"] == [SYSTEM, USER, ANSWER]


def test_prompt_and_completion_come_from_the_named_columns() -> None:
    decode = chat.parser("prompt_completion", {**COLUMNS, "prompt": "question", "completion": "answer"})
    sample = decode(b'{"question": "2+2?", "answer": "4", "source": "x"}')
    assert json.loads(chat.encode(sample)) == {"messages": [USER, ANSWER]}


def test_a_missing_column_lists_those_that_are_there() -> None:
    decode = chat.parser("prompt_completion", COLUMNS)
    with pytest.raises(chat.InvalidRow, match=r"`prompt`.*question, answer"):
        decode(b'{"question": "2+2?", "answer": "4"}')
