"""Rows that are canonical already, many at a time: decoding and encoding is all there is to do. Most rows are such."""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from sft.chat.repeated_keys import num_written
from sft.chat.sample import InvalidRow, Role, check, check_trains, encode

_MAX_OTHER_COLUMNS = 64
NOTHING = {b"null", b'""', b"[]", b"{}"}
"""JSON of a column that says nothing."""


class _UserTurn(msgspec.Struct, tag_field="role", tag="user", forbid_unknown_fields=True, gc=False):
    content: str


class _AssistantTurn(msgspec.Struct, tag_field="role", tag="assistant", forbid_unknown_fields=True, gc=False):
    content: Annotated[str, msgspec.Meta(min_length=1)]


class _Turn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Role
    content: str
    weight: Literal[0, 1] | UnsetType = UNSET
    tool_calls: ClassVar[UnsetType] = UNSET
    calls_a_tool: ClassVar[bool] = False


def _canonical(turn: _Turn) -> _Turn:
    """Return the turn with a weight only if that is 0, as a canonical one has it."""
    if turn.weight is UNSET or turn.weight == 0:
        return turn
    if turn.role != "assistant" and turn.weight == 1:
        raise InvalidRow("user-weight", "found on a closer look")
    return _Turn(turn.role, turn.content)


class _PlainRow(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    messages: list[_Turn]
    tools: UnsetType | None = UNSET


class _SingleTurns(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    messages: tuple[_UserTurn, _AssistantTurn]
    tools: UnsetType | None = UNSET


_UNNAMEABLE = re.compile(r'[\x00-\x1f"\\]')
"""What no field of a msgspec.Struct can have in its name: rows with such a column get a closer look each."""


@dataclass(frozen=True)
class ParsedLines:
    """Rows that were parsed together.

    Attributes:
        lines: Each sample's JSON.
        passed_over: How many rows have a column that isn't read, and the index of the first.
    """

    lines: list[bytes]
    passed_over: dict[str, tuple[int, int]]


class PlainRows:
    """Parses JSON Lines whose every field is known, columns that are passed over included."""

    def __init__(self) -> None:
        self._types: dict[str, Any] = {}
        self._make_decoders()

    def pass_over(self, columns: Set[str], *, null_only: Set[str]) -> None:
        """Know further columns from now on.

        Args:
            columns: Columns that aren't read and don't change what a row means.
            null_only: Columns that need a closer look unless they are null.
        """
        if self._types.keys() >= {*columns, *null_only}:
            return
        types = {**dict.fromkeys(columns, msgspec.Raw | UnsetType), **dict.fromkeys(null_only, None | UnsetType)}
        types = {name: kind for name, kind in types.items() if not _UNNAMEABLE.search(name)}
        if types.keys() - self._types.keys() - {"tools"} and len(self._types) + len(types) <= _MAX_OTHER_COLUMNS:
            self._types = {name: kind for name, kind in {**types, **self._types}.items() if name != "tools"}
            self._make_decoders()

    def _make_decoders(self) -> None:
        self._may_be_single_turns = True
        self._fields = {f"column_{number}": name for number, name in enumerate(self._types)}
        self._decode = self._decoder(_PlainRow)
        self._decode_single_turns = self._decoder(_SingleTurns)

    def _decoder(self, kind: type[msgspec.Struct]) -> Callable[[bytes], list[Any]]:
        if self._fields:
            others = [(field, self._types[name], UNSET) for field, name in self._fields.items()]
            kind = msgspec.defstruct("PlainRow", others, bases=(kind,), rename=self._fields, gc=False)
        decode: Callable[[bytes], list[Any]] = msgspec.json.Decoder(kind).decode_lines
        return decode

    def parse(self, lines: bytes) -> ParsedLines | None:
        """Return what these JSON Lines hold; None if a row is invalid or needs a closer look."""
        try:
            rows = self._rows(lines)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidRow):
            return None
        if len(rows) != lines.count(b"\n"):
            return None
        if not self._fields:
            return ParsedLines(list(map(encode, rows)), {})
        return ParsedLines([encode(_PlainRow(row.messages)) for row in rows], self._counts(rows))

    def _rows(self, lines: bytes) -> list[Any]:
        if self._may_be_single_turns:
            try:
                rows = self._decode_single_turns(lines)
            except msgspec.DecodeError:
                self._may_be_single_turns = False  # this source has other conversations: don't try again
            else:
                if any(row.messages[1].content.isspace() for row in rows):
                    raise InvalidRow("empty-answer", "found on a closer look")
                self._check_keys(rows, lines)
                return rows
        rows = self._decode(lines)
        self._check_keys(rows, lines)
        for row in rows:
            check(row.messages)
        if b'"weight"' in lines:
            for row in rows:
                row.messages = list(map(_canonical, row.messages))
                check_trains(row.messages)
        return rows

    def _check_keys(self, rows: list[Any], lines: bytes) -> None:
        """Raise `InvalidRow` if a row may have a key twice; leave `tools` out."""
        num_texts: float = len(rows) + 4 * sum([len(row.messages) for row in rows])
        for field in self._fields:
            values = [value for value in [getattr(row, field) for row in rows] if value is not UNSET]
            num_texts += len(values) + sum([num_written(bytes(value)) for value in values if value is not None])
        num_more = num_written(lines) - num_texts
        if not num_more:
            return
        for row in rows:
            num_more -= sum([turn.weight is not UNSET for turn in row.messages if type(turn) is _Turn])
            num_more -= row.tools is not UNSET
            row.tools = UNSET
        if num_more:
            raise InvalidRow("repeated-key", "found on a closer look")

    def _counts(self, rows: list[Any]) -> dict[str, tuple[int, int]]:
        counts = {}
        for field, name in self._fields.items():
            if self._types[name] == None | UnsetType:
                continue
            values = [getattr(row, field) for row in rows]
            places = [at for at, value in enumerate(values) if value is not UNSET and bytes(value) not in NOTHING]
            if places:
                counts[name] = (len(places), places[0])
        return counts
