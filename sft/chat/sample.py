"""The canonical sample and the rules of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
ROLES: tuple[str, ...] = ("system", "developer", "user", "assistant", "tool", "function")
_INSTRUCTIONS = ("system", "developer")
_RESULTS = ("tool", "function")


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn, with OpenAI's field names. A turn without text has ``content`` empty."""

    role: Role
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
        found: What the row holds instead.
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
    "unknown-role": f"a role is one of {', '.join(ROLES)}",
    "empty-messages": "a conversation needs at least a user and an assistant turn",
    "system-not-first": "a system or developer turn may only come first",
    "roles-out-of-order": "user and assistant turns alternate, beginning with the user; a tool answers a call",
    "no-assistant": "without an assistant turn there is nothing to learn",
    "trailing-user": "the last turn must be the assistant's, or it is never answered",
    "empty-answer": "an assistant turn without text or a tool call has nothing to learn",
    "nothing-for-the-loss": "the chat template leaves nothing of the assistant's turns: take another model",
    "too-long": "raise training.max_seq_len (and training.max_tokens_per_gpu), or shorten the conversation",
    "template-error": "the model's chat template can't render it: mend the roles, or take another model",
    "unrendered": "the model's chat template would leave it out: see dataset.on_unrendered",
    "special-token": "it would become the real token: take it out of the text, or write it differently",
}
"""Code of every rule, and how to mend a row that breaks it. The last four need the model's tokenizer."""

encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
"""The JSON of a sample."""


def check(messages: list[Message]) -> None:
    """Raises `InvalidRow` where a conversation breaks a rule."""
    # What most conversations are, seen quickly: an instruction or none, then users and answers in turn.
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


def _check_turns(messages: list[Message]) -> None:
    if not messages:
        raise InvalidRow("empty-messages", "messages is []")
    first = 1 if messages[0].role in _INSTRUCTIONS else 0
    before = ""  # role of the turn before, "call" for an assistant turn that calls a tool
    for place in range(first, len(messages)):
        message = messages[place]
        role = message.role
        if role not in _MAY_FOLLOW[before]:
            if role in _INSTRUCTIONS:
                raise InvalidRow("system-not-first", f"turn {place + 1} is a {role} turn")
            expected = " or ".join(_MAY_FOLLOW[before])
            raise InvalidRow("roles-out-of-order", f"turn {place + 1} is {role}, expected {expected}")
        if role == "assistant":
            calls = message.calls_a_tool
            if not calls and _is_blank(message.content):
                raise InvalidRow("empty-answer", f"turn {place + 1} has no text")
            before = "call" if calls else role
        else:
            before = role
    if not before:
        raise InvalidRow("no-assistant", "there is only an instruction")
    if before not in ("assistant", "call"):
        if all(message.role != "assistant" for message in messages):
            raise InvalidRow("no-assistant", f"the roles are {', '.join(m.role for m in messages)}")
        raise InvalidRow("trailing-user", f"the last turn is of the {before}")


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


_MAY_FOLLOW: Mapping[str, tuple[str, ...]] = {
    "": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": _RESULTS,
    "tool": ("assistant", *_RESULTS),
    "function": ("assistant", *_RESULTS),
}
