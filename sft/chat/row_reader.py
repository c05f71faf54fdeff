"""The columns of one row: each read once, and what is left said or refused."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sft.chat import repeated_keys
from sft.chat.plain_rows import NOTHING
from sft.chat.sample import InvalidRow, Message
from sft.chat.tool_calls import declared_parameters, kind_of, tools_of
from sft.chat.turns import TurnReader
from sft.chat.unread import MEANINGFUL_COLUMNS, refuse_if_meaningful

CHOSEN, REJECTED = "chosen", "rejected"

READ_BY_SOME = frozenset(
    {"tools", "functions", "system", "system_prompt", "label", "unmask", CHOSEN, REJECTED, *MEANINGFUL_COLUMNS}
)
"""Columns that are read, or change what a row means, if they hold something."""

_BOOLEANS = {
    **dict.fromkeys((b"true", b"1", b"1.0"), True),
    **dict.fromkeys((b"false", b"0", b"0.0"), False),
}
"""How sources spell true and false, in any case, also as a text: CSV and pandas have no other way."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The source's names of what a format reads.

    Attributes:
        keep: Columns that are kept beside the conversation.
        ignore: Columns and fields of turns that are left out on purpose.
        used: Columns that the split reads.
    """

    messages: str = "messages"
    prompt: str = "prompt"
    completion: str = "completion"
    text: str = "text"
    keep: Sequence[str] = ()
    ignore: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()


class RowReader:
    """The columns of one row that haven't been read yet."""

    def __init__(self, raw: dict[str, msgspec.Raw], columns: Columns) -> None:
        self._raw = raw
        self._names = tuple(raw)
        self.columns = columns
        self.turns = TurnReader(columns.ignore)

    def left(self) -> set[str]:
        """Return the names of columns that haven't been read."""
        return set(self._raw)

    def value(self, name: str) -> Any:
        """Return a column's value, once; None if it isn't there."""
        raw = self._raw.pop(name, None)
        if raw is None:
            return None
        return decoded(raw, name)

    def required(self, *names: str) -> Any:
        """Return the value of a column that may have several names.

        Raises:
            InvalidRow: It isn't there, or two of them differ.
        """
        if len(names) == 1 and names[0] in self._raw:
            return self.value(names[0])
        values = {name: self.value(name) for name in names if name in self._raw}
        values = {name: value for name, value in values.items() if value is not None} or values
        if not values:
            wanted = " or ".join(f"`{name}`" for name in names)
            raise InvalidRow(
                "missing-column", f"there is no {wanted}; the row's columns: {', '.join(self._names) or '(none)'}"
            )
        if len(values) > 1 and len({msgspec.json.encode(value) for value in values.values()}) > 1:
            raise InvalidRow("two-spellings", f"the columns {' and '.join(values)} differ")
        return next(iter(values.values()))

    def text(self, *names: str) -> str:
        """Return the text of a column that must be there."""
        value = self.required(*names)
        if not isinstance(value, str):
            raise InvalidRow("wrong-type", f"{names[0]} is {kind_of(value)}")
        return value

    def optional_text(self, *names: str) -> str:
        """Return the text of a column; empty if it isn't there."""
        present = [name for name in names if name in self._raw and bytes(self._raw[name]) not in NOTHING]
        return self.text(*present) if present else ""

    def boolean(self, name: str, *, is_strict: bool = False) -> bool | None:
        """Return true or false, and that it is read; None if the column holds anything else.

        Args:
            name: Of the column.
            is_strict: Whether 1, 0 and texts are something else.
        """
        raw = bytes(self._raw.get(name, b""))
        value = _BOOLEANS.get(raw if is_strict else raw.strip(b'" ').lower())
        if value is None or (is_strict and raw not in (b"true", b"false")):
            return None
        del self._raw[name]
        return value

    def tools(self) -> list[Any]:
        """Return the row's tools."""
        present = {name: value for name in ("tools", "functions") if (value := self.value(name))}
        if len(present) > 1:
            raise InvalidRow("two-spellings", "the row has both tools and functions")
        for name, value in present.items():
            tools = tools_of(value, name)
            self.turns.declared = declared_parameters(tools)
            return tools
        return []

    def with_system(self, messages: list[Message]) -> list[Message]:
        """Put the instruction of a column of its own before the conversation."""
        text = self.optional_text("system", "system_prompt")
        if not text:
            return messages
        if messages and messages[0].role in ("system", "developer"):
            if messages[0].content.strip() != text.strip():
                raise InvalidRow("two-spellings", "the system column and the first turn differ")
            return messages
        return [Message("system", text), *messages]

    def unread(self, kept: Container[str]) -> set[str]:
        """Return the fields that the row has and that weren't read.

        Raises:
            InvalidRow: Without one of them the row means something else.
        """
        if not self._raw:
            return self.turns.unread
        left = {name for name, raw in self._raw.items() if name not in kept and bytes(raw) not in NOTHING}
        left -= self.columns.used
        refuse_if_meaningful(sorted(left), MEANINGFUL_COLUMNS)
        return left | self.turns.unread


_decode_columns: Callable[[bytes], dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def raw_columns(row: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _decode_columns(row)
    except msgspec.ValidationError as error:
        raise InvalidRow("not-object", str(error)) from None
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise undecodable(row, str(error)) from None
    except RecursionError:
        raise InvalidRow("wrong-type", "JSON nested too deeply") from None


def decoded(raw: msgspec.Raw, name: str) -> Any:
    try:
        value = msgspec.json.decode(raw)
        repeated_keys.refuse(bytes(raw), value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise undecodable(bytes(raw), f"{name}: {error}") from None
    except RecursionError:
        raise InvalidRow("wrong-type", f"{name}: JSON nested too deeply") from None
    return value


def undecodable(row: bytes, message: str) -> InvalidRow:
    try:
        row.decode("utf-8")
    except UnicodeDecodeError as error:
        return InvalidRow("not-utf8", f"byte {error.start} is 0x{row[error.start]:02x}")
    return InvalidRow("not-json", f"{message}: {row[:60].decode(errors='replace')!r}")


def checked_utf8(row: bytes, raw: msgspec.Raw) -> msgspec.Raw:
    """Return a kept column as it is: nothing else looks at its bytes."""
    try:
        bytes(raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise undecodable(row, str(error)) from None
    return raw
