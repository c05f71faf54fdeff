"""A conversation that is too long is cut where a turn ends, or divided where a user's turn begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from sft.chat.too_long import cut, divided
from sft.chat.turn_tokens import TokenSequence, Turn

SYSTEM = {"role": "system", "content": "be brief"}


def sequence(*turns: tuple[int, int], length: int) -> TokenSequence:
    return TokenSequence([*range(length)], [Turn(n, "", range(*places), None) for n, places in enumerate(turns)])


def user(number: int) -> dict[str, Any]:
    return {"role": "user", "content": f"q{number}"}


def answer(number: int) -> dict[str, Any]:
    return {"role": "assistant", "content": f"a{number}"}


def exchanges(count: int) -> list[dict[str, Any]]:
    return [turn for number in range(count) for turn in (user(number), answer(number))]


@pytest.mark.parametrize(("longest", "kept", "length"), [(30, 3, 30), (29, 2, 20), (20, 2, 20), (19, 1, 9), (8, 0, 0)])
def test_a_sequence_ends_with_the_last_turn_that_fits_whole(longest: int, kept: int, length: int) -> None:
    whole = sequence((5, 9), (12, 20), (25, 30), length=30)
    made = cut(whole, longest)
    assert (len(made.turns), made.token_ids) == (kept, whole.token_ids[:length])
    assert all(turn.places.stop <= longest for turn in made.turns)


def test_what_fits_stays_as_it_is_with_what_follows_its_last_turn() -> None:
    whole = sequence((5, 9), length=12)
    assert cut(whole, 12) is whole


def test_parts_take_as_many_exchanges_as_fit_each_after_the_instruction() -> None:
    messages = [SYSTEM, *exchanges(5)]
    parts = list(divided(messages, len, 5))  # a token a turn: two exchanges after the instruction
    assert parts == [[SYSTEM, *messages[1:5]], [SYSTEM, *messages[5:9]], [SYSTEM, *messages[9:]]]
    assert list(divided(messages, len, 99)) == [messages]


def test_an_exchange_that_is_too_long_alone_is_a_part_of_its_own() -> None:
    def num_tokens(part: Sequence[Any]) -> int:
        return sum(100 if message["content"] == "a1" else 1 for message in part)

    assert [[turn["content"] for turn in part] for part in divided(exchanges(4), num_tokens, 4)] == [
        ["q0", "a0"],
        ["q1", "a1"],
        ["q2", "a2", "q3", "a3"],
    ]


def test_calls_of_tools_stay_with_the_question_that_they_answer() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    asked = [user(0), call, {"role": "tool", "content": "1"}, answer(0)]
    parts = list(divided([SYSTEM, *asked, *asked], len, 5))
    assert parts == [[SYSTEM, *asked]] * 2


@pytest.mark.parametrize("longest", range(1, 12))
def test_no_turn_is_lost_or_there_twice(longest: int) -> None:
    messages = exchanges(7)
    assert [turn for part in divided(messages, len, longest) for turn in part] == messages
