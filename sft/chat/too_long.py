"""Conversations that are too long for a training: cut at the end of a turn, or divided where a user's turn begins."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from sft.chat.template import SYSTEM_ROLES, Message
from sft.chat.turn_tokens import TokenSequence

OnTooLong = Literal["refuse", "truncate", "split_turns"]


def cut(sequence: TokenSequence, longest: int) -> TokenSequence:
    """Return a sequence of at most `longest` tokens that ends with the last turn that fits whole, terminator included.

    Nothing of a turn that doesn't fit is left, because the model would learn to end where it does not, or nothing at
    all. Where no turn fits, neither tokens nor turns are left.
    """
    if len(sequence.token_ids) <= longest:
        return sequence
    turns = [turn for turn in sequence.turns if turn.places.stop <= longest]
    end = max((turn.places.stop for turn in turns), default=0)
    return TokenSequence(sequence.token_ids[:end], turns)


def divided(
    messages: Sequence[Message], num_tokens: Callable[[Sequence[Message]], int], longest: int
) -> Iterator[list[Message]]:
    """Yield the parts of a conversation: as many exchanges each as fit, after the conversation's instruction.

    An exchange is a user's turn with all that follows it up to the next one; one that is too long alone is a part of
    its own, which doesn't fit.

    Args:
        messages: The conversation.
        num_tokens: Counts the tokens of a part.
        longest: Tokens of a part, at most.
    """
    first = 1 if messages[0]["role"] in SYSTEM_ROLES else 0
    begins = [place for place, message in enumerate(messages) if message["role"] == "user"]
    ends = [*begins[1:], len(messages)]
    done = 0
    while done < len(begins):

        def part(end: int, begin: int = begins[done]) -> list[Message]:
            return [*messages[:first], *messages[begin:end]]

        num_fitting = bisect_right(ends[done:], longest, key=lambda end: num_tokens(part(end)))
        yield part(ends[done + max(num_fitting, 1) - 1])
        done += max(num_fitting, 1)
