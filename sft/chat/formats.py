"""How sources spell a conversation: ``messages``, ``conversations``, ``alpaca``, ``prompt_completion``.

A row is decoded straight into a typed structure whose field names are the source's columns, so one pass over its bytes
both reads and checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from sft.chat.sample import ROLES, InvalidRow, Message, Role, Sample, check, encode

Format = Literal["messages", "conversations", "alpaca", "prompt_completion"]

_SHAREGPT_ROLES: Mapping[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The source's names of what a format reads, and the columns that are kept beside the conversation."""

    messages: str = "messages"
    prompt: str = "prompt"
    completion: str = "completion"
    keep: Sequence[str] = ()


class _Part(msgspec.Struct):
    """One part of a content list."""

    type: str = "text"
    text: str | None = None


class _OpenAiMessage(msgspec.Struct):
    role: Role
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class _ShareGptMessage(msgspec.Struct, rename={"role": "from"}):
    role: str
    value: str


def recognise(row: bytes, columns: Columns, given: Format | None) -> tuple[Format, Columns]:
    """The format of a source, by one of its rows, and where its turns stand: ShareGPT's column is ``conversations``.

    Raises:
        InvalidRow: The row is no JSON object; or no format is given and the row has the columns of none.
    """
    names = _column_names(row)
    if columns.messages not in names and "conversations" in names:
        columns = replace(columns, messages="conversations")
    if given is not None:
        return given, columns
    turns = names.get(columns.messages)
    if isinstance(turns, list):
        sharegpt = turns and isinstance(turns[0], dict) and "from" in turns[0]
        return ("conversations" if sharegpt else "messages"), columns
    if {columns.prompt, columns.completion} <= names.keys():
        return "prompt_completion", columns
    if {"instruction", "output"} <= names.keys():
        return "alpaca", columns
    raise InvalidRow("missing-column", f"no known format has the columns {', '.join(names) or '(none)'}")


def _column_names(row: bytes) -> dict[str, Any]:
    try:
        decoded: Any = msgspec.json.decode(row)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise _undecodable(row, str(error)) from None
    except RecursionError:
        raise InvalidRow("wrong-type", "JSON nested too deeply") from None
    if not isinstance(decoded, dict):
        raise InvalidRow("not-object", f"found a JSON {type(decoded).__name__}")
    return decoded


class Parser:
    """Turns rows of one format into samples.

    Args:
        row_format: How the source spells a conversation.
        columns: The source's column names.
        system_prompt: System turn for every conversation that has none.
    """

    def __init__(self, row_format: Format, columns: Columns, *, system_prompt: str | None = None) -> None:
        fields, rename, self._build = _SPELLINGS[row_format](columns)
        self._kept = {f"kept_{number}": name for number, name in enumerate(columns.keep)}
        kept = ((name, msgspec.Raw | UnsetType, UNSET) for name in self._kept)
        row_type = msgspec.defstruct("Row", [*fields, *kept], rename=rename | self._kept, gc=False)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(row_type).decode
        self._decode_plain = _decoder_of_lines(list[Message])
        self._decode_single_turns = _decoder_of_lines(tuple[_UserTurn, _AssistantTurn])
        self._system = [Message("system", system_prompt)] if system_prompt is not None else []
        named_as_written = row_format == "messages" and columns.messages == "messages"
        self._may_be_plain = named_as_written and not self._kept and not self._system
        self._may_be_single_turns = True

    def many(self, lines: bytes) -> list[bytes] | None:
        """The samples' JSON where all of these JSON Lines are valid and hold nothing else; None where one isn't."""
        if not self._may_be_plain:
            return None
        try:
            rows = self._plain_rows(lines)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidRow):
            return None
        return list(map(encode, rows)) if len(rows) == lines.count(b"\n") else None

    def _plain_rows(self, lines: bytes) -> list[Any]:
        if self._may_be_single_turns:
            try:
                rows: list[Any] = self._decode_single_turns(lines)
            except msgspec.DecodeError:
                self._may_be_single_turns = False  # this source has other conversations: don't try again
            else:
                if any(row.messages[1].content.isspace() for row in rows):
                    raise InvalidRow("empty-answer", "found on a closer look")
                return rows
        rows = self._decode_plain(lines)
        for row in rows:
            check(row.messages)
        return rows

    def one(self, row: bytes) -> Sample:
        """The sample of one row.

        Raises:
            InvalidRow: It breaks a rule.
        """
        try:
            decoded = self._decode(row)
        except msgspec.ValidationError as error:
            raise _refused(row, str(error)) from None
        except (UnicodeDecodeError, msgspec.DecodeError) as error:
            raise _undecodable(row, str(error)) from None
        except RecursionError:
            raise InvalidRow("wrong-type", "JSON nested too deeply") from None
        messages = self._build(decoded)
        if self._system and messages and messages[0].role not in ("system", "developer"):
            messages = self._system + messages
        check(messages)
        tools = getattr(decoded, "tools", None)
        if not self._kept:
            return Sample(messages, tools) if tools else Sample(messages)
        found = {name: getattr(decoded, field) for field, name in self._kept.items()}
        metadata = {name: value for name, value in found.items() if value is not UNSET}
        return Sample(messages, tools or UNSET, metadata)


class _UserTurn(msgspec.Struct, tag_field="role", tag="user", forbid_unknown_fields=True, gc=False):
    content: str


class _AssistantTurn(msgspec.Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True, gc=False):
    content: Annotated[str, msgspec.Meta(min_length=1)]


def _decoder_of_lines(messages: Any) -> Callable[[bytes], list[Any]]:
    """Decodes rows that need no change, so that decoding and encoding is all there is to do. Most rows are such."""
    fields: list[Any] = [("messages", messages), ("tools", None, None)]
    row_type = msgspec.defstruct("PlainRow", fields, omit_defaults=True, gc=False)
    decode: Callable[[bytes], list[Any]] = msgspec.json.Decoder(row_type).decode_lines
    return decode


_Spelling = tuple[list[Any], dict[str, str], Callable[[Any], list[Message]]]


def _messages(columns: Columns) -> _Spelling:
    def build(row: Any) -> list[Message]:
        return [_openai(place, message) for place, message in enumerate(row.messages, start=1)]

    fields = [("messages", list[_OpenAiMessage]), ("tools", list[Any] | None, None)]
    return fields, {"messages": columns.messages}, build


_NO_EXTRAS = (None, None, None, None)


def _openai(place: int, message: _OpenAiMessage) -> Message:
    content = message.content
    text = content if isinstance(content, str) else _joined(place, content)
    extras = (message.name, message.tool_calls, message.tool_call_id, message.reasoning_content)
    if extras == _NO_EXTRAS:
        return Message(message.role, text)
    name, tool_calls, tool_call_id, reasoning = extras
    return Message(
        message.role,
        text,
        UNSET if name is None else name,
        tool_calls or UNSET,
        UNSET if tool_call_id is None else tool_call_id,
        UNSET if reasoning is None else reasoning,
    )


def _joined(place: int, parts: list[_Part] | None) -> str:
    texts = []
    for part in parts or ():
        if part.type != "text" or part.text is None:
            raise InvalidRow("not-text", f"turn {place} has a part of type {part.type}")
        texts.append(part.text)
    return "".join(texts)


def _conversations(columns: Columns) -> _Spelling:
    def build(row: Any) -> list[Message]:
        messages = []
        for turn in row.messages:
            if turn.role not in _SHAREGPT_ROLES:
                raise InvalidRow("unknown-role", f"{turn.role!r}; known are {', '.join(_SHAREGPT_ROLES)}")
            messages.append(Message(_SHAREGPT_ROLES[turn.role], turn.value))
        if row.system and messages and messages[0].role != "system":
            messages.insert(0, Message("system", row.system))
        return messages

    fields = [("messages", list[_ShareGptMessage]), ("system", str | None, None)]
    return fields, {"messages": columns.messages}, build


def _alpaca(_columns: Columns) -> _Spelling:
    def build(row: Any) -> list[Message]:
        messages = [Message("system", row.system)] if row.system else []
        for asked, answered in row.history or ():
            messages += [Message("user", asked), Message("assistant", answered)]
        question = f"{row.instruction}\n\n{row.input}" if row.input else row.instruction
        return [*messages, Message("user", question), Message("assistant", row.output)]

    optional = [("input", str | None, None), ("system", str | None, None)]
    history = [("history", list[tuple[str, str]] | None, None)]
    return [("instruction", str), ("output", str), *optional, *history], {}, build


def _prompt_completion(columns: Columns) -> _Spelling:
    fields = [("prompt", str), ("completion", str)]
    rename = {"prompt": columns.prompt, "completion": columns.completion}
    return fields, rename, lambda row: [Message("user", row.prompt), Message("assistant", row.completion)]


_SPELLINGS: Mapping[Format, Callable[[Columns], _Spelling]] = {
    "messages": _messages,
    "conversations": _conversations,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
}


def _refused(row: bytes, message: str) -> InvalidRow:
    """The rule behind msgspec's message, which ends in the place: ``… - at `$.messages[0].role```."""
    at_top = " - at " not in message
    if message.startswith("Expected `object`") and at_top:
        return InvalidRow("not-object", message)
    if "missing required field" in message and at_top:
        present = ", ".join(msgspec.json.decode(row)) or "(none)"
        return InvalidRow("missing-column", f"{message}; the row's columns: {present}")
    if "Invalid enum value" in message:
        return InvalidRow("unknown-role", f"{message}; roles: {', '.join(ROLES)}")
    return InvalidRow("wrong-type", message)


def _undecodable(row: bytes, message: str) -> InvalidRow:
    try:
        row.decode("utf-8")
    except UnicodeDecodeError as error:
        return InvalidRow("not-utf8", f"byte {error.start} is 0x{row[error.start]:02x}")
    return InvalidRow("not-json", f"{message}: {row[:60].decode(errors='replace')!r}")
