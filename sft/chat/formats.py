"""How sources spell a row: ``messages``, ``conversations``, ``alpaca``, ``prompt_completion``, ``preference``.

Owns which columns a format reads. A turn is `sft.chat.turns`'; what isn't read is `sft.chat.unread`'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from sft.chat.plain_rows import NOTHING, ParsedLines, PlainRows
from sft.chat.sample import InvalidRow, Message, Sample, check, check_trains, encode
from sft.chat.tool_calls import declared_parameters, kind_of, tools_of
from sft.chat.turns import TurnReader
from sft.chat.unread import MEANINGFUL_COLUMNS, refuse_if_meaningful

Format = Literal["messages", "conversations", "alpaca", "prompt_completion", "preference"]

_OTHER_MESSAGES = ("conversations", "conversation")
"""ShareGPT's names of the column that holds the turns."""

_CHOSEN, _REJECTED = "chosen", "rejected"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The source's names of what a format reads.

    Attributes:
        keep: Columns that are kept beside the conversation.
        ignore: Columns and fields of turns that are left out on purpose.
    """

    messages: str = "messages"
    prompt: str = "prompt"
    completion: str = "completion"
    keep: Sequence[str] = ()
    ignore: Sequence[str] = ()


@dataclass(frozen=True)
class ParsedRow:
    """One row.

    Attributes:
        sample: The conversation.
        line: Its JSON.
        unread: Fields that it has and that aren't read: a column's name, or ``messages[].name`` of a turn's.
        ignored: Fields that it has and that the recipe leaves out.
    """

    sample: Sample
    line: bytes
    unread: frozenset[str]
    ignored: frozenset[str]


def recognise(row: bytes, columns: Columns, given: Format | None) -> tuple[Format, Columns]:
    """Return the format of a source, by one of its rows, and the columns with the name of the one that holds the turns.

    Raises:
        InvalidRow: The row isn't a JSON object, or no format is given and the row has the columns of none.
    """
    raw = _raw_columns(row)
    names = {name for name in raw if name not in columns.ignore}
    other = next((name for name in _OTHER_MESSAGES if name in names), None)
    if columns.messages not in names and other:
        columns = replace(columns, messages=other)
    if given is not None:
        return given, columns
    if _prefers(names, columns):
        return "preference", columns
    if columns.messages in names and (first := _first_turn(raw[columns.messages])) is not None:
        return ("conversations" if "from" in first else "messages"), columns
    if {columns.prompt, columns.completion} <= names:
        return "prompt_completion", columns
    if "instruction" in names and names & {"output", "response"}:
        return "alpaca", columns
    raise InvalidRow("missing-column", f"no known format has the columns {', '.join(raw) or '(none)'}")


def _prefers(names: set[str], columns: Columns) -> bool:
    """Return whether a row holds a chosen and a rejected answer and no setting says which column is the answer."""
    named = {columns.messages, columns.prompt, columns.completion}
    return {_CHOSEN, _REJECTED} <= names and not named & {_CHOSEN, _REJECTED}


def _first_turn(raw: msgspec.Raw) -> dict[str, Any] | None:
    """Return the first of a list of turns, which may be JSON in a text; None if it isn't a list."""
    turns = _value(raw, "messages")
    if isinstance(turns, str):
        try:
            turns = msgspec.json.decode(turns)
        except (msgspec.DecodeError, RecursionError):
            return None
    if not isinstance(turns, list):
        return None
    return turns[0] if turns and isinstance(turns[0], dict) else {}


class Parser:
    """Turns rows of one format into samples.

    Args:
        row_format: How the source spells a conversation.
        columns: The source's column names.
        system_prompt: System turn for every conversation that has none.
        takes_preferences: Whether the recipe asks for the chosen answers of preference data.
    """

    def __init__(
        self,
        row_format: Format,
        columns: Columns,
        *,
        system_prompt: str | None = None,
        takes_preferences: bool = False,
    ) -> None:
        self._build = _BUILDERS[row_format]
        self._columns = columns
        self._ignored = frozenset(columns.ignore)
        self._takes_preferences = takes_preferences
        self._system = [Message("system", system_prompt)] if system_prompt is not None else []
        named_as_written = row_format == "messages" and columns.messages == "messages"
        may_be_plain = named_as_written and not (columns.keep or self._system or self._ignored & {"messages", "tools"})
        self._plain = PlainRows() if may_be_plain else None

    def many(self, lines: bytes) -> ParsedLines | None:
        """Return what these JSON Lines hold if all are valid and need no closer look; else None."""
        return self._plain.parse(lines) if self._plain else None

    def one(self, row: bytes) -> ParsedRow:
        """Return the sample of one row.

        Raises:
            InvalidRow: It breaks a rule.
        """
        raw = _raw_columns(row)
        kept = {name: _checked_utf8(row, raw[name]) for name in self._columns.keep if name in raw}
        ignored = self._ignored & raw.keys()
        reader = _RowReader({name: raw[name] for name in raw if name not in ignored}, self._columns)
        self._check_preference(reader)
        tools = reader.tools()
        reader.turns.ignored, reader.turns.declared = self._ignored, declared_parameters(tools)
        messages = reader.with_system(self._build(reader))
        if self._system and messages and messages[0].role not in ("system", "developer"):
            messages = self._system + messages
        check(messages)
        check_trains(messages)
        unread = reader.unread(kept)
        if self._plain:
            left = reader.left()
            self._plain.pass_over((left - _READ_BY_SOME) | ignored, null_only=left & _READ_BY_SOME)
        sample = Sample(messages, tools or UNSET, kept if self._columns.keep else UNSET)
        return ParsedRow(sample, _encoded(sample), frozenset(unread), frozenset(ignored | reader.turns.seen))

    def _check_preference(self, reader: _RowReader) -> None:
        """Refuse preference data unless the recipe asks for it; leave out what a person didn't choose."""
        if not self._takes_preferences and _prefers(reader.left(), self._columns):
            raise InvalidRow("preference", "the row has a `chosen` and a `rejected` answer")
        if reader.boolean("label") is False:
            if self._takes_preferences:
                raise InvalidRow("not-chosen", "label is false")
            raise InvalidRow("preference", "label is false: this answer is one to avoid")
        if reader.boolean("unmask"):
            raise InvalidRow("unread-field", "`unmask` is not read: set training.train_on=everything for all rows")


class _RowReader:
    """The columns of one row that haven't been read yet."""

    def __init__(self, raw: dict[str, msgspec.Raw], columns: Columns) -> None:
        self._raw = raw
        self._names = list(raw)
        self.columns = columns
        self.turns = TurnReader()

    def left(self) -> set[str]:
        """Return the names of columns that haven't been read."""
        return set(self._raw)

    def value(self, name: str) -> Any:
        """Return a column's value, once; None if it isn't there."""
        raw = self._raw.pop(name, None)
        if raw is None:
            return None
        return _value(raw, name)

    def required(self, *names: str) -> Any:
        """Return the value of a column that may have several names.

        Raises:
            InvalidRow: It isn't there, or two of them differ.
        """
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
            raise InvalidRow("wrong-type", f"{names[0]} is a {kind_of(value)}")
        return value

    def optional_text(self, *names: str) -> str:
        """Return the text of a column; empty if it isn't there."""
        present = [name for name in names if name in self._raw and bytes(self._raw[name]) not in NOTHING]
        return self.text(*present) if present else ""

    def boolean(self, name: str) -> bool | None:
        """Return true or false, and that it is read; None if the column holds anything else."""
        raw = self._raw.get(name)
        if raw is None or bytes(raw) not in (b"true", b"false"):
            return None
        return bool(self.value(name))

    def tools(self) -> list[Any]:
        """Return the row's tools."""
        present = {name: value for name in ("tools", "functions") if (value := self.value(name))}
        if len(present) > 1:
            raise InvalidRow("two-spellings", "the row has both tools and functions")
        for name, value in present.items():
            return tools_of(value, name)
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

    def unread(self, kept: Mapping[str, Any]) -> set[str]:
        """Return the fields that the row has and that weren't read.

        Raises:
            InvalidRow: Without one of them the row means something else.
        """
        left = {name for name, raw in self._raw.items() if name not in kept and bytes(raw) not in NOTHING}
        refuse_if_meaningful(sorted(left), MEANINGFUL_COLUMNS)
        return left | self.turns.unread


def _messages(row: _RowReader) -> list[Message]:
    name = row.columns.messages
    return row.turns.messages(row.required(name), name)


def _alpaca(row: _RowReader) -> list[Message]:
    messages = _history(row)
    question = "\n\n".join(text for text in (row.text("instruction"), row.optional_text("input", "context")) if text)
    return [*messages, Message("user", question), Message("assistant", row.text("output", "response"))]


def _history(row: _RowReader) -> list[Message]:
    turns = row.value("history") or []
    messages = []
    for pair in turns if isinstance(turns, list) else [turns]:
        if not isinstance(pair, list) or [type(text) for text in pair] != [str, str]:
            raise InvalidRow("wrong-type", "history is a list of pairs of texts, [question, answer]")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    return messages


def _prompt_completion(row: _RowReader) -> list[Message]:
    """Two texts, or TRL's conversational form: of two lists of turns, only the second trains."""
    prompt = _prompt(row)
    return prompt + _answer(row, row.columns.completion, after=len(prompt))


def _prompt(row: _RowReader) -> list[Message]:
    value = row.required(row.columns.prompt)
    if isinstance(value, list):
        return row.turns.messages(value, row.columns.prompt, is_context=True)
    if not isinstance(value, str):
        raise InvalidRow("wrong-type", f"{row.columns.prompt} is a {kind_of(value)}")
    return [Message("user", value)]


def _answer(row: _RowReader, name: str, *, after: int) -> list[Message]:
    value = row.required(name)
    if isinstance(value, list):
        return row.turns.messages(value, name, after=after)
    if not isinstance(value, str):
        raise InvalidRow("wrong-type", f"{name} is a {kind_of(value)}")
    return [Message("assistant", value)]


def _preference(row: _RowReader) -> list[Message]:
    """The chosen answer, after its prompt or as a whole conversation; or prompt and completion with a good `label`."""
    if _CHOSEN not in row.left():
        return _prompt_completion(row)
    chosen, rejected = row.required(_CHOSEN), row.value(_REJECTED)
    chosen = [chosen] if isinstance(chosen, dict) else chosen
    if isinstance(chosen, str):
        context = _context(row)
        return [*context, Message("assistant", chosen)]
    num_shared = _num_shared(chosen, rejected)
    messages = row.turns.messages(chosen[:num_shared], _CHOSEN, is_context=True)
    messages += row.turns.messages(chosen[num_shared:], _CHOSEN, after=num_shared)
    if messages and messages[0].role == "assistant":
        return _context(row) + messages
    for name in (row.columns.prompt, row.columns.messages):
        row.value(name)  # the chosen conversation begins with it
    return messages


def _context(row: _RowReader) -> list[Message]:
    """What a chosen answer answers: the prompt, or the turns so far."""
    name = row.columns.messages
    return row.turns.messages(row.required(name), name, is_context=True) if name in row.left() else _prompt(row)


def _num_shared(chosen: Any, rejected: Any) -> int:
    """Return how many turns both conversations begin with: they are the prompt, as TRL sees it."""
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        return 0
    pairs = zip(chosen[:-1], rejected, strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


_BUILDERS: Mapping[Format, Callable[[_RowReader], list[Message]]] = {
    "messages": _messages,
    "conversations": _messages,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "preference": _preference,
}

_READ_BY_SOME = frozenset(
    {"tools", "functions", "system", "system_prompt", "label", "unmask", _CHOSEN, _REJECTED, *MEANINGFUL_COLUMNS}
)
"""Columns that are read, or change what a row means, if they hold something."""

_decode_columns: Callable[[bytes], dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _raw_columns(row: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _decode_columns(row)
    except msgspec.ValidationError as error:
        raise InvalidRow("not-object", str(error)) from None
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise _undecodable(row, str(error)) from None
    except RecursionError:
        raise InvalidRow("wrong-type", "JSON nested too deeply") from None


def _value(raw: msgspec.Raw, name: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _undecodable(bytes(raw), f"{name}: {error}") from None
    except RecursionError:
        raise InvalidRow("wrong-type", f"{name}: JSON nested too deeply") from None


def _undecodable(row: bytes, message: str) -> InvalidRow:
    try:
        row.decode("utf-8")
    except UnicodeDecodeError as error:
        return InvalidRow("not-utf8", f"byte {error.start} is 0x{row[error.start]:02x}")
    return InvalidRow("not-json", f"{message}: {row[:60].decode(errors='replace')!r}")


def _checked_utf8(row: bytes, raw: msgspec.Raw) -> msgspec.Raw:
    """Return a kept column as it is: nothing else looks at its bytes."""
    try:
        bytes(raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _undecodable(row, str(error)) from None
    return raw


def _encoded(sample: Sample) -> bytes:
    try:
        return encode(sample)
    except RecursionError:
        raise InvalidRow("wrong-type", "JSON nested too deeply") from None
