"""How sources spell a row: ``messages``, ``conversations``, ``alpaca``, ``prompt_completion``, ``preference``, text.

Owns which columns a format reads. A turn is `sft.chat.turns`'; what isn't read is `sft.chat.unread`'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from sft.chat import repeated_keys
from sft.chat.plain_rows import ParsedLines, PlainRows
from sft.chat.row_reader import CHOSEN, READ_BY_SOME, REJECTED, Columns, RowReader, checked_utf8, decoded, raw_columns
from sft.chat.sample import TEXT, InvalidRow, Message, Sample, check, check_trains, encode
from sft.chat.tool_calls import kind_of, turns_in

Format = Literal["messages", "conversations", "alpaca", "prompt_completion", "preference", "text"]

_OTHER_MESSAGES = ("conversations", "conversation")
_PLAIN_FIELDS = {"messages", "tools", "role", "content", "weight"}
"""What the quick way reads: to ignore one of these takes a closer look."""
"""ShareGPT's names of the column that holds the turns."""


class ParsedRow(msgspec.Struct, frozen=True):
    """One row.

    Attributes:
        sample: The conversation.
        line: Its JSON.
        unread: Fields that it has and that aren't read: a column's name, or ``messages[].name`` of a turn's.
        ignored: Fields that it has and that the recipe leaves out.
    """

    sample: Sample
    line: bytes
    unread: Set[str]
    ignored: Set[str]


def recognise(row: bytes, columns: Columns, given: Format | None) -> tuple[Format, Columns]:
    """Return the format of a source, by one of its rows, and the columns with the name of the one that holds the turns.

    Raises:
        InvalidRow: The row isn't a JSON object, or no format is given and the row has the columns of none.
    """
    raw = raw_columns(row)
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
    return {CHOSEN, REJECTED} <= names and not named & {CHOSEN, REJECTED}


def _first_turn(raw: msgspec.Raw) -> dict[str, Any] | None:
    """Return the first of a list of turns, which may be JSON in a text; None if it isn't a list."""
    turns = decoded(raw, "messages")
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
        self._is_text = row_format == "text"
        self._build = _text if self._is_text else _BUILDERS[row_format]
        self._columns = columns
        self._takes_preferences = takes_preferences
        self._has_pairs = row_format in ("prompt_completion", "preference")
        self._system = [Message("system", system_prompt)] if system_prompt is not None else []
        named_as_written = row_format == "messages" and columns.messages == "messages"
        may_be_plain = named_as_written and not (columns.keep or self._system or columns.ignore & _PLAIN_FIELDS)
        self._plain = PlainRows() if may_be_plain else None

    def many(self, lines: bytes) -> ParsedLines | None:
        """Return what these JSON Lines hold if all are valid and need no closer look; else None."""
        return self._plain.parse(lines) if self._plain else None

    def one(self, row: bytes) -> ParsedRow:
        """Return the sample of one row.

        Raises:
            InvalidRow: It breaks a rule.
        """
        raw = raw_columns(row)
        repeated_keys.refuse_columns(row, raw, self._columns.ignore)
        kept = {name: checked_utf8(row, raw[name]) for name in self._columns.keep if name in raw}
        ignored = self._columns.ignore.intersection(raw)
        for name in ignored:
            del raw[name]
        reader = RowReader(raw, self._columns)
        # More than the columns of its format; a raw text has neither tools nor an instruction.
        has_more = not self._is_text and not READ_BY_SOME.isdisjoint(raw)
        if has_more:
            self._check_preference(reader)
        tools = reader.tools() if has_more else []
        messages = self._build(reader)
        if has_more:
            messages = reader.with_system(messages)
        if not self._is_text:
            if self._system and messages and messages[0].role not in ("system", "developer"):
                messages = self._system + messages
            check(messages)
        if any(message.weight == 0 for message in messages):
            check_trains(messages)
        unread = reader.unread(kept)
        if self._plain:
            left = reader.left()
            self._plain.pass_over((left - READ_BY_SOME) | ignored, null_only=left & READ_BY_SOME)
        sample = Sample(messages, tools or UNSET, kept if self._columns.keep else UNSET)
        return ParsedRow(sample, _encoded(sample), unread, ignored | reader.turns.seen)

    def _check_preference(self, reader: RowReader) -> None:
        """Refuse preference data unless the recipe asks for it; leave out what a person didn't choose."""
        if not self._takes_preferences and _prefers(reader.left(), self._columns):
            raise InvalidRow("preference", "the row has a `chosen` and a `rejected` answer")
        is_good = reader.boolean("label", is_strict=not self._has_pairs)  # elsewhere 0 and 1 may be classes
        if is_good is None and self._takes_preferences and {"label", CHOSEN} & reader.left() == {"label"}:
            raise InvalidRow("wrong-type", "label is neither true (1) nor false (0): is the answer a good one?")
        if is_good is False:
            if self._takes_preferences:
                raise InvalidRow("not-chosen", "label is false")
            raise InvalidRow("preference", "label is false: this answer is one to avoid")
        if reader.boolean("unmask"):
            raise InvalidRow("unread-field", "`unmask` is not read: set training.train_on=everything for all rows")


def _messages(row: RowReader) -> list[Message]:
    name = row.columns.messages
    return row.turns.messages(row.required(name), name)


def _alpaca(row: RowReader) -> list[Message]:
    messages = _history(row)
    question = "\n\n".join(text for text in (row.text("instruction"), row.optional_text("input", "context")) if text)
    return [*messages, Message("user", question), Message("assistant", row.text("output", "response"))]


def _text(row: RowReader) -> list[Message]:
    text = row.text(row.columns.text)
    if not text or text.isspace():
        raise InvalidRow("empty-text", f"{row.columns.text} has no text")
    return [Message(TEXT, text)]


def _history(row: RowReader) -> list[Message]:
    turns = row.value("history") or []
    messages = []
    for pair in turns if isinstance(turns, list) else [turns]:
        if not isinstance(pair, list) or [type(text) for text in pair] != [str, str]:
            raise InvalidRow("wrong-type", "history is a list of pairs of texts, [question, answer]")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    return messages


def _prompt_completion(row: RowReader) -> list[Message]:
    """Two texts, or TRL's conversational form: of two lists of turns, only the second trains."""
    prompt = _prompt(row)
    return prompt + _answer(row, row.columns.completion, after=len(prompt))


def _prompt(row: RowReader) -> list[Message]:
    value = turns_in(row.required(row.columns.prompt), row.columns.prompt)
    if isinstance(value, list):
        return row.turns.messages(value, row.columns.prompt, is_context=True)
    if not isinstance(value, str):
        raise InvalidRow("wrong-type", f"{row.columns.prompt} is {kind_of(value)}")
    return [Message("user", value)]


def _answer(row: RowReader, name: str, *, after: int) -> list[Message]:
    value = turns_in(row.required(name), name)
    if isinstance(value, list):
        return row.turns.messages(value, name, after=after)
    if not isinstance(value, str):
        raise InvalidRow("wrong-type", f"{name} is {kind_of(value)}")
    return [Message("assistant", value)]


def _preference(row: RowReader) -> list[Message]:
    """Return the chosen answer, after its prompt or as a conversation; or a pair that has a good `label`."""
    if CHOSEN not in row.left():
        return _prompt_completion(row)
    chosen, rejected = turns_in(row.required(CHOSEN), CHOSEN), turns_in(row.value(REJECTED), REJECTED)
    chosen = [chosen] if isinstance(chosen, dict) else chosen
    if isinstance(chosen, str):
        context = _context(row)
        return [*context, Message("assistant", chosen)]
    if not isinstance(chosen, list):
        raise InvalidRow("wrong-type", f"{CHOSEN} is {kind_of(chosen)}")
    num_shared = _num_shared(chosen, rejected)
    messages = row.turns.messages(chosen[:num_shared], CHOSEN, is_context=True)
    messages += row.turns.messages(chosen[num_shared:], CHOSEN, after=num_shared)
    if messages and messages[0].role == "assistant":
        return _context(row) + messages
    for name in (row.columns.prompt, row.columns.messages):
        messages = _after(row, name, messages)
    return messages


def _after(row: RowReader, name: str, messages: list[Message]) -> list[Message]:
    """Return a chosen conversation after what a column says comes before it, unless it begins with that itself."""
    value = turns_in(row.value(name), name)
    if not value or not messages:
        return messages
    if isinstance(value, str) and name == row.columns.prompt:
        if any(turn.role == "user" and turn.content.strip() == value.strip() for turn in messages):
            return messages
    else:
        before = row.turns.messages(value, name, is_context=True)
        if list(map(_said, before)) == list(map(_said, messages[: len(before)])):
            return messages
        if before[-1].role in ("assistant", "system", "developer") and messages[0].role == "user":
            return before + messages
    raise InvalidRow("two-spellings", f"{CHOSEN} begins with another turn than {name}")


def _said(message: Message) -> Message:
    return msgspec.structs.replace(message, weight=UNSET)


def _context(row: RowReader) -> list[Message]:
    """Return what a chosen answer answers: the prompt, or the turns so far."""
    name = row.columns.messages
    return row.turns.messages(row.required(name), name, is_context=True) if name in row.left() else _prompt(row)


def _num_shared(chosen: Any, rejected: Any) -> int:
    """Return how many turns both conversations begin with: they are the prompt, as TRL sees it."""
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        return 0
    pairs = zip(chosen[:-1], rejected, strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


_BUILDERS: Mapping[str, Callable[[RowReader], list[Message]]] = {
    "messages": _messages,
    "conversations": _messages,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "preference": _preference,
}


def _encoded(sample: Sample) -> bytes:
    try:
        return encode(sample)
    except RecursionError:
        raise InvalidRow("wrong-type", "JSON nested too deeply") from None
