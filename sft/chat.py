"""Owns one chat sample: its canonical form, the formats it is read from, and the rules it must keep.

A row is JSON bytes; what comes out is ``{"messages": [{"role", "content"}, …]}``. Knows nothing of files,
splits or tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = ("system", "user", "assistant")


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn."""

    role: Role
    content: str


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One conversation."""

    messages: list[Message]


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
    "missing-column": "name the source's columns: dataset.columns.*, and its dataset.format",
    "wrong-type": "messages is a list of objects with the texts role and content",
    "unknown-role": f"a role is one of {', '.join(ROLES)}",
    "empty-messages": "a conversation needs at least a user and an assistant turn",
    "system-not-first": "only the first turn may be a system turn",
    "roles-out-of-order": "user and assistant turns alternate, beginning with the user",
    "no-assistant": "without an assistant turn there is nothing to learn",
    "trailing-user": "the last turn must be the assistant's, or it is never answered",
    "empty-answer": "an assistant turn without text has nothing to learn",
}
"""Code of every rule, and how to mend a row that breaks it."""

Parse = Callable[[bytes], Sample]
encode: Callable[[Sample], bytes] = msgspec.json.Encoder().encode


def parser(row_format: str, columns: Mapping[str, str], system_prompt: str | None = None) -> Parse:
    """A function from one row's bytes to its sample.

    Args:
        row_format: ``messages`` or ``prompt_completion``.
        columns: The source's name of ``messages``, ``prompt`` and ``completion``.
        system_prompt: System turn for every conversation that has none.

    Returns:
        The function; it raises `InvalidRow`.
    """
    names = ("messages",) if row_format == "messages" else ("prompt", "completion")
    kind: Any = list[Message] if row_format == "messages" else str
    row_type = msgspec.defstruct("Row", [(n, kind) for n in names], rename={n: columns[n] for n in names})
    decode = msgspec.json.Decoder(row_type).decode
    system = [Message("system", system_prompt)] if system_prompt is not None else []

    def parse(row: bytes) -> Sample:
        try:
            decoded: Any = decode(row)
        except msgspec.ValidationError as error:
            raise _refused(row, str(error)) from None
        except (UnicodeDecodeError, msgspec.DecodeError) as error:
            raise _undecodable(row, str(error)) from None
        except RecursionError:
            raise InvalidRow("wrong-type", "JSON nested too deeply") from None
        if row_format == "messages":
            messages = decoded.messages
        else:
            messages = [Message("user", decoded.prompt), Message("assistant", decoded.completion)]
        if system and messages and messages[0].role != "system":
            messages = system + messages
        _check(messages)
        return Sample(messages)

    return parse


def _check(messages: list[Message]) -> None:
    if not messages:
        raise InvalidRow("empty-messages", "messages is []")
    turns = messages[1:] if messages[0].role == "system" else messages
    expected: Role = "user"
    for number, message in enumerate(turns, start=len(messages) - len(turns) + 1):
        if message.role != expected:
            if message.role == "system":
                raise InvalidRow("system-not-first", f"turn {number} is a system turn")
            raise InvalidRow("roles-out-of-order", f"turn {number} is {message.role}, expected {expected}")
        if expected == "assistant" and not message.content.strip():
            raise InvalidRow("empty-answer", f"turn {number} has no text")
        expected = "user" if expected == "assistant" else "assistant"
    if expected == "assistant":
        raise InvalidRow("trailing-user" if len(turns) > 1 else "no-assistant", "the last turn is the user's")
    if not turns:
        raise InvalidRow("no-assistant", "the only turn is a system turn")


def _refused(row: bytes, message: str) -> InvalidRow:
    """The rule behind msgspec's message, which ends in the place: ``… - at `$.messages[0].role```."""
    if message.startswith("Expected `object`") and " - at " not in message:
        return InvalidRow("not-object", message)
    if "missing required field" in message and " - at " not in message:
        present = ", ".join(msgspec.json.decode(row)) or "none"
        return InvalidRow("missing-column", f"{message}; the row's columns: {present}")
    if "Invalid enum value" in message:
        return InvalidRow("unknown-role", message)
    return InvalidRow("wrong-type", message)


def _undecodable(row: bytes, message: str) -> InvalidRow:
    try:
        row.decode("utf-8")
    except UnicodeDecodeError as error:
        return InvalidRow("not-utf8", f"byte {error.start} is 0x{row[error.start]:02x}")
    return InvalidRow("not-json", f"{message}: {row[:60].decode(errors='replace')!r}")
