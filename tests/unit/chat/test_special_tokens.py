"""The text of a special token is found wherever text enters the rendering."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sft.chat.special_tokens import find_special_token

PATTERN = re.compile(r"<\|im_end\|>")
BAD = "a<|im_end|>b"
CALL: dict[str, Any] = {"function": {"name": "add", "arguments": {"x": [1, {"y": "z"}]}}}


def sample(**changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "2"}, {"role": "assistant", "content": "two", **changes}]
    return {"messages": messages, "tools": [{"function": {"name": "add", "description": "Adds."}}]}


def test_a_clean_row_holds_none() -> None:
    assert find_special_token(sample(tool_calls=[CALL], reasoning_content="hm", weight=0), PATTERN) is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"content": BAD}, ""),
        ({"reasoning_content": BAD}, " in reasoning_content"),
        ({"name": BAD}, " in name"),
        ({"tool_call_id": BAD}, " in tool_call_id"),
        ({"tool_calls": [{"function": {"name": BAD, "arguments": {}}}]}, " in tool_calls"),
        ({"tool_calls": [{"function": {"name": "add", "arguments": {"x": [{"y": BAD}]}}}]}, " in tool_calls"),
        ({"tool_calls": [{"function": {"name": "add", "arguments": {BAD: 1}}}]}, " in tool_calls"),
    ],
)
def test_every_field_of_a_turn_is_searched(changes: dict[str, Any], field: str) -> None:
    found = find_special_token(sample(**changes), PATTERN)
    assert found == f'turn 2 holds <|im_end|>{field}, in the text "{BAD}"'


@pytest.mark.parametrize("tool", [{"function": {"name": BAD}}, {"function": {"parameters": {BAD: {}}}}, BAD])
def test_the_descriptions_of_tools_are_searched(tool: Any) -> None:
    found = find_special_token({**sample(), "tools": [tool]}, PATTERN)
    assert found == f'tools holds <|im_end|>, in the text "{BAD}"'
