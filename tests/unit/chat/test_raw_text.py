"""A document in pieces: every token but the first counts once, each after the one before it."""

from __future__ import annotations

import pytest

from sft.chat.raw_text import NO_LOSS, is_text, pieces


@pytest.mark.parametrize("num_tokens", [1, 2, 7, 8, 9, 15, 16, 100])
def test_every_token_but_the_first_counts_once_and_knows_what_precedes_it(num_tokens: int) -> None:
    document, longest = list(range(num_tokens)), 8
    made = pieces(document, longest)
    counted = [label for piece in made for label in piece["labels"] if label != NO_LOSS]
    assert counted == document[1:]
    for piece in made:
        assert piece["len"] == len(piece["input_ids"]) == len(piece["labels"]) <= longest
        first = piece["input_ids"][0]
        assert piece["input_ids"] == list(range(first, first + piece["len"]))
    assert all(piece["len"] == longest for piece in made[:-1])
    assert all(piece["len"] >= 2 for piece in made) or num_tokens == 1


def test_only_a_turn_of_the_role_is_a_text() -> None:
    assert is_text({"messages": [{"role": "text", "content": "a"}]})
    assert not is_text({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "text"}]})
