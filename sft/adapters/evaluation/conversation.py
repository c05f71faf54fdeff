"""A held-out conversation as tokens, with the places of the assistant's turns that are scored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sft.chat.loss import answered
from sft.chat.template import TemplateError
from sft.chat.turn_tokens import TokenSequence, TurnFinder
from sft.errors import DataError

_SHOWN_CHARACTERS = 400


@dataclass
class Turn:
    """One assistant's turn.

    Attributes:
        number: Its place among the messages, from 0.
        prompt: Everything before it, with the generation prompt.
        prompt_ids: Its tokens: those of the conversation before `places`.
        own_ids: Its own tokens, terminator included: those at `places`.
        target: What it says, as tokens spell it, so that it compares with what the model writes.
        places: Of its tokens in its sequence, terminator included.
        loss: Sum over its tokens, natural logarithm.
        num_correct: Tokens that are the most likely next one.
        written: What the model wrote; None where nothing was generated.
        is_cut: Whether it would have written on.
    """

    number: int
    prompt: str
    prompt_ids: list[int]
    own_ids: list[int]
    target: str
    places: Sequence[int]
    loss: float = math.nan
    num_correct: int = 0
    written: str | None = None
    is_cut: bool = False


@dataclass
class ScoredSequence:
    """Tokens that go through the model at once, and the turns that are scored in them."""

    token_ids: list[int]
    turns: list[Turn]


@dataclass
class Conversation:
    """A rendered conversation.

    Attributes:
        index: Its place in the evaluation split, from 0.
        sequences: More than one where the template shows a turn otherwise once the conversation goes on.
    """

    index: int
    sequences: list[ScoredSequence]

    @property
    def turns(self) -> list[Turn]:
        """Every turn that is scored, in order."""
        turns = [turn for sequence in self.sequences for turn in sequence.turns]
        return sorted(turns, key=lambda turn: turn.number)

    @property
    def num_tokens(self) -> int:
        """Tokens that it takes in a batch, padding to its longest sequence included."""
        return len(self.sequences) * max((len(sequence.token_ids) for sequence in self.sequences), default=1)


@dataclass
class Lengths:
    """Counts conversations that are longer than a model's context.

    Attributes:
        context: Its tokens; None = the model doesn't say.
        num: Conversations counted so far.
        num_longer: Of them.
        longest: Tokens of the longest.
    """

    context: int | None
    num: int = 0
    num_longer: int = 0
    longest: int = 0

    def add(self, conversation: Conversation) -> None:
        """Count a conversation."""
        length = max((len(sequence.token_ids) for sequence in conversation.sequences), default=0)
        self.num += 1
        self.num_longer += self.context is not None and length > self.context
        self.longest = max(self.longest, length)

    def notes(self, name: str) -> Iterator[str]:
        """Yield a note if some conversations of a held-out set are longer."""
        if self.num_longer:
            context = f"the model's context, max_position_embeddings={self.context}"
            longer = f"{name}: {self.num_longer:,} of {self.num:,} conversations are longer than {context}"
            yield f"{longer}, up to {self.longest:,} tokens, and are scored whole"


def render(index: int, messages: Sequence[dict[str, Any]], finder: TurnFinder, tools: Any = None) -> Conversation:
    """Return one conversation as tokens, with the places of the assistant's turns that are scored.

    Raises:
        DataError: The template can't render it, or its turns can't be told apart.
    """
    try:
        whole = finder.renderer.text(messages, tools)
        shared, own = finder.sequences(messages, whole, tools, answered(messages))
    except TemplateError as error:
        what = str(messages)[:_SHOWN_CHARACTERS]
        raise DataError(
            f"held-out sample {index}: {error}; the conversation: {what}",
            fix="leave it out of the evaluation split, or use a chat template that knows such conversations",
        ) from error
    except DataError as error:
        raise DataError(f"held-out sample {index}: {error.message}", fix=error.fix) from error
    tokenizer = finder.renderer.tokenizer
    return Conversation(index, [_scored(sequence, tokenizer) for sequence in (shared, *own) if sequence.turns])


def _scored(sequence: TokenSequence, tokenizer: Any) -> ScoredSequence:
    ids = sequence.token_ids
    turns = [
        Turn(
            number=turn.number,
            prompt=turn.prompt,
            prompt_ids=ids[: turn.places.start],
            own_ids=[ids[place] for place in turn.places],
            target=tokenizer.decode(ids[turn.places.start : turn.places.stop], skip_special_tokens=True),
            places=turn.places,
        )
        for turn in sequence.turns
    ]
    return ScoredSequence(ids, turns)
