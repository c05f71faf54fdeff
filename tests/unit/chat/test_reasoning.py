"""What of a turn is its reasoning, in each way to write it."""

from __future__ import annotations

from typing import Any

import pytest

from sft.chat.reasoning import check_marks, ends_a_thought, num_before, reasoning_of
from sft.chat.template import TemplateError


@pytest.mark.parametrize(
    ("message", "reasoning"),
    [
        ({"content": "four", "reasoning_content": " add \n"}, "add"),
        ({"content": "\n<think>\nadd\n</think>\n\nfour"}, "add"),
        ({"content": "add\n</think>\n\nfour"}, "add"),
        ({"content": "write <think> or </think>"}, ""),
        ({"content": "<think>never ended"}, ""),
        ({"content": ""}, ""),
        ({}, ""),
    ],
)
def test_reasoning_is_what_a_turn_begins_with_up_to_its_mark(message: dict[str, Any], reasoning: str) -> None:
    assert reasoning_of(message) == reasoning


@pytest.mark.parametrize(("written", "number"), [("<think>\nhi", 7), ("\n <think>hi", 9), ("  hi <think>", 2)])
def test_what_stands_before_it_is_counted(written: str, number: int) -> None:
    assert num_before(written) == number


def test_a_turn_has_as_many_marks_as_it_is_written_with() -> None:
    inline, apart = {"content": "add</think>four"}, {"content": "four", "reasoning_content": "add"}
    assert (ends_a_thought(inline), ends_a_thought(apart)) == (True, False)
    check_marks(inline, "<think>add</think>four")
    check_marks({**inline, "reasoning_content": "x"}, "<think>x</think>add</think>four")
    with pytest.raises(TemplateError, match="adds another </think>"):
        check_marks(inline, "<think>\n\n</think>\n\nadd</think>four")
