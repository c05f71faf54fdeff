"""The canonical sample and the rules of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
ROLES: tuple[str, ...] = ("system", "developer", "user", "assistant", "tool", "function")
TEXT: Literal["text"] = "text"
"""The role of the one turn of a raw text (`sft.chat.raw_text`)."""
_INSTRUCTIONS = ("system", "developer")
_RESULTS = ("tool", "function")


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn, with OpenAI's field names.

    Attributes:
        role: Of a conversation's turn, or `TEXT`.
        content: The turn's text; empty for an assistant that only calls tools.
        tool_calls: OpenAI's form, each call's ``arguments`` an object whatever the source spelled.
        weight: 0 for a turn that carries no loss, of whatever role; absent for one that trains where its kind does.
    """

    role: Role | Literal["text"]
    content: str
    name: str | UnsetType = UNSET
    tool_calls: list[Any] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    weight: Literal[0] | UnsetType = UNSET

    @property
    def calls_a_tool(self) -> bool:
        return bool(self.tool_calls)


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One conversation.

    Attributes:
        tools: Descriptions of the tools that the assistant may call, as the chat template gets them.
        metadata: Columns of the source that were kept.
    """

    messages: list[Message]
    tools: list[Any] | UnsetType = UNSET
    metadata: dict[str, msgspec.Raw] | UnsetType = UNSET


class InvalidRow(Exception):
    """A row breaks a rule.

    Attributes:
        rule: Its code, one of `RULES`.
        found: What the row holds.
    """

    def __init__(self, rule: str, found: str) -> None:
        super().__init__(f"{rule}: {found}")
        self.rule = rule
        self.found = found


RULES: Mapping[str, str] = {
    "not-utf8": "save the file as UTF-8",
    "not-json": "each line must be one JSON object; look for a cut line or a missing quote",
    "not-object": "each row must be a JSON object",
    "missing-column": "name the source's columns (dataset.columns.*) or its dataset.format",
    "wrong-type": "messages is a list of objects; role and content are texts",
    "not-text": "content is a text, or a list of text parts; images and sound can't be trained",
    "no-content": 'each turn needs a content; write "" if a tool returned nothing',
    "bad-tool-call": "a call is {function: {name, arguments}}; arguments is an object, or its JSON in a text",
    "bad-weight": "weight, train, loss, loss_mask and trainable are 0 or 1 (false or true), and agree",
    "user-weight": "leave the flag out; training.train_on=everything trains every turn",
    "two-spellings": "keep one of them: dataset.ignore_fields leaves the other out",
    "repeated-key": "write it once; a column that says it otherwise can be left out by dataset.ignore_fields",
    "unread-field": "to train without it, name it in dataset.ignore_fields",
    "preference": "dataset.format=preference trains the chosen answers and leaves the others out; "
    "dataset.ignore_fields leaves out a column that says something else",
    "not-chosen": "left out, because dataset.format=preference trains the chosen answers only",
    "empty-text": "leave the row out: there is nothing to learn",
    "unknown-role": f"a role is one of {', '.join(ROLES)}",
    "empty-messages": "a conversation needs at least a user and an assistant turn",
    "system-not-first": "a system or developer turn may only come first",
    "roles-out-of-order": "user and assistant turns alternate, beginning with the user; a tool answers a call",
    "no-assistant": "without an assistant turn there is nothing to learn",
    "trailing-user": "the last turn must be the assistant's, or it is never answered",
    "empty-answer": "an assistant turn without text or a tool call has nothing to learn",
    "nothing-to-train": "an assistant turn must train, or leave the row out",
    "nothing-for-the-loss": "the chat template leaves nothing of the assistant's turns: take another model",
    "too-long": "raise training.max_seq_len (and training.max_tokens_per_gpu), or shorten the conversation",
    "template-error": "the model's chat template can't render it: mend the roles, or take another model",
    "unrendered": "the model's chat template would leave it out: see dataset.on_unrendered",
    "special-token": "it would become the real token: take it out of the text, or write it differently",
}
"""Code of every rule, and how to mend a row that breaks it. The last four need the model's tokenizer."""

LEFT_OUT_BY_CHOICE = frozenset({"not-chosen"})
"""Rules of rows that the recipe's own settings leave out: they are counted as rejected, and are no error."""

encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
"""The JSON of a sample."""


def check(messages: list[Message]) -> None:
    """Raise `InvalidRow` if a conversation breaks a rule."""
    # Most conversations are an instruction or none, then users and answers in turn: these are checked quickly.
    num_turns = len(messages)
    place = 1 if num_turns and messages[0].role in _INSTRUCTIONS else 0
    if place == num_turns or (num_turns - place) % 2:
        return _check_turns(messages)
    while place < num_turns:
        answer = messages[place + 1]
        text = answer.content
        if messages[place].role != "user" or answer.role != "assistant" or answer.tool_calls is not UNSET:
            return _check_turns(messages)
        if not text or text.isspace():
            return _check_turns(messages)
        place += 2
    return None


def check_trains(messages: list[Message]) -> None:
    """Raise `InvalidRow` if every assistant turn is context."""
    answers = [place for place, message in enumerate(messages, start=1) if message.role == "assistant"]
    if all(messages[place - 1].weight == 0 for place in answers):
        carry = "turn {} carries" if len(answers) == 1 else "turns {} carry"
        raise InvalidRow("nothing-to-train", f"{carry.format(', '.join(map(str, answers)))} no loss")


def _check_turns(messages: list[Message]) -> None:
    if not messages:
        raise InvalidRow("empty-messages", "messages is []")
    first = 1 if messages[0].role in _INSTRUCTIONS else 0
    previous = ""  # a key of _MAY_FOLLOW
    for place, message in enumerate(messages[first:], start=first + 1):
        role = message.role
        if role not in _MAY_FOLLOW[previous]:
            if role in _INSTRUCTIONS:
                raise InvalidRow("system-not-first", f"turn {place} is a {role} turn")
            expected = " or ".join(_MAY_FOLLOW[previous])
            raise InvalidRow("roles-out-of-order", f"turn {place} is {role}, expected {expected}")
        previous = _answer_kind(place, message) if role == "assistant" else role
    if not previous:
        raise InvalidRow("no-assistant", "there is only an instruction")
    if previous not in _ENDS:
        if all(message.role != "assistant" for message in messages):
            raise InvalidRow("no-assistant", f"the roles are {', '.join(m.role for m in messages)}")
        raise InvalidRow("trailing-user", f"the last turn is of the {previous}")


def _answer_kind(place: int, message: Message) -> str:
    """Return which key of `_MAY_FOLLOW` an assistant's turn is."""
    if message.calls_a_tool:
        return "call"
    if not message.content or message.content.isspace():
        raise InvalidRow("empty-answer", f"turn {place} has no text")
    return "call as text" if _TEXT_CALL in message.content else "assistant"


_TEXT_CALL = "<tool_call>"
"""Hermes's spelling of a call in the text of a turn. It stays text, because the row's own instructions ask for it."""

_ENDS = ("assistant", "call", "call as text")
_MAY_FOLLOW: Mapping[str, tuple[str, ...]] = {
    "": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": _RESULTS,
    "call as text": ("user", *_RESULTS),
    "tool": ("assistant", *_RESULTS),
    "function": ("assistant", *_RESULTS),
}
