"""Which tokens of a conversation count for the loss, as `training.train_on` and a turn's ``weight`` say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

from sft.chat.reasoning import reasoning_of
from sft.chat.template import Message, TemplateError
from sft.chat.too_long import cut
from sft.chat.turn_tokens import TokenSequence, Turn, TurnFinder

TrainOn = Literal["all_turns", "last_turn", "everything"]
Row = dict[str, Any]

NO_LOSS = -100


def answered(messages: Sequence[Message]) -> list[int]:
    """Return the places of the assistant's turns that aren't context only (``"weight": 0``)."""
    return [number for number, message in enumerate(messages) if message["role"] == "assistant" and _counts(message)]


def trained(messages: Sequence[Message], train_on: TrainOn) -> list[int]:
    """Return the places of the assistant's turns on which the loss is computed."""
    numbers = answered(messages)
    return numbers[-1:] if train_on == "last_turn" else numbers


def rows(
    finder: TurnFinder,
    messages: Sequence[Message],
    whole: str,
    tools: Any = None,
    *,
    train_on: TrainOn = "all_turns",
    train_on_reasoning: bool = True,
    longest: int | None = None,
) -> list[Row]:
    """Return ``input_ids``, ``labels`` (`NO_LOSS` where no loss is) and ``len`` of each sequence of a conversation.

    Args:
        finder: Of the model's tokenizer and template.
        messages: The conversation.
        whole: All of it, rendered.
        tools: Descriptions of tools.
        train_on: The trained turns, or every token.
        train_on_reasoning: Whether the model learns to write its reasoning.
        longest: Tokens to which a longer sequence is cut (`sft.chat.too_long.cut`); None = any.

    Raises:
        TemplateError: The conversation can't be rendered, or it can't be proved where a turn lies.
        DataError: No conversation can be trained with this template.
    """
    if train_on == "everything":
        row = _everything(finder, messages, whole, tools, train_on_reasoning=train_on_reasoning, longest=longest)
        return [row] if row["len"] else []
    shared, own = finder.sequences(messages, whole, tools, trained(messages, train_on))
    sequences = [one if longest is None else cut(one, longest) for one in (shared, *own)]
    return [_turns_of(one, train_on_reasoning=train_on_reasoning) for one in sequences if one.turns]


def _turns_of(sequence: TokenSequence, *, train_on_reasoning: bool) -> Row:
    labels = [NO_LOSS] * len(sequence.token_ids)
    for turn in sequence.turns:
        left_out = () if train_on_reasoning else _reasoning(turn)
        for place in turn.places:
            if place not in left_out:
                labels[place] = sequence.token_ids[place]
    return {"input_ids": sequence.token_ids, "labels": labels, "len": len(labels)}


def _everything(
    finder: TurnFinder,
    messages: Sequence[Message],
    whole: str,
    tools: Any,
    *,
    train_on_reasoning: bool,
    longest: int | None,
) -> Row:
    """Return every token but the first, which nothing precedes, those of context turns, and perhaps reasoning."""
    context = {number for number, message in enumerate(messages) if not _counts(message)}
    if others := [number + 1 for number in sorted(context) if messages[number]["role"] != "assistant"]:
        raise TemplateError(
            f"turn {others[0]} has weight 0 and is not the assistant's, which training.train_on=everything can't honour"
        )
    numbers = _to_find(messages, context, train_on_reasoning=train_on_reasoning, every=longest is not None)
    sequence, own = finder.sequences(messages, whole, tools, numbers)
    if own:
        raise TemplateError(
            f"the conversation doesn't show turn {own[0].turns[0].number + 1} as the model writes it, which "
            "training.train_on=everything needs"
        )
    if longest is not None:
        sequence = cut(sequence, longest)
    labels = list(sequence.token_ids)
    labels[:1] = [NO_LOSS] * len(labels[:1])
    for turn in sequence.turns:
        reasoning = () if train_on_reasoning else _reasoning(turn)
        for place in turn.places if turn.number in context else reasoning:
            labels[place] = NO_LOSS
    return {"input_ids": sequence.token_ids, "labels": labels, "len": len(labels)}


def _reasoning(turn: Turn) -> range:
    if turn.reasoning is None:
        raise TemplateError(
            f"the chat template rewrites the reasoning of turn {turn.number + 1}, so that "
            "training.train_on_reasoning=false can't tell it from the answer"
        )
    return turn.reasoning


def _to_find(
    messages: Sequence[Message], context: Collection[int], *, train_on_reasoning: bool, every: bool
) -> list[int]:
    """Return the turns that lie apart from the rest, and the last one, which proves what generation starts from.

    With `every`, all of the assistant's.
    """
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if every:
        return answers
    reasoning = () if train_on_reasoning else [number for number in answers if reasoning_of(messages[number])]
    return sorted({*context, *reasoning, *answers[-1:]})


def _counts(message: Message) -> bool:
    return bool(message.get("weight", 1))
