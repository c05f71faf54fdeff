"""Fields of a row that no format reads: which of them change what the row means, and how often the others occur."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from sft.chat.sample import InvalidRow

_MEDIA = "this trainer reads text only"
_MASK = "whether 1 trains or hides is not clear; write weight: 0 or 1 at each assistant turn"
_SETTINGS = "set training and template options in the recipe, for every row alike"
_REASONING = "it would not be trained; put it at the assistant's turn, as reasoning_content"
_CALL = "it belongs to the assistant's turn, as tool_calls"
_PROMPT = "the answer may need it; join it to the prompt"
_MEDIA_FIELDS = ("image", "images", "audio", "audios", "video", "videos")

MEANINGFUL_COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(_MEDIA_FIELDS, _MEDIA),
    **dict.fromkeys(("mask", "loss_mask"), _MASK),
    **dict.fromkeys(("chat_template_kwargs", "unmask"), _SETTINGS),
    **dict.fromkeys(("thinking", "reasoning", "reasoning_content"), _REASONING),
    **dict.fromkeys(("tool_calls", "function_call"), _CALL),
    **dict.fromkeys(("context", "input", "documents", "history"), _PROMPT),
    "weight": "samples have no weight of their own; a turn may have weight: 0",
}
"""Columns beside a conversation without which a row means something else, and why each can't be read."""

MEANINGFUL_TURN_FIELDS: Mapping[str, str] = {
    **dict.fromkeys(_MEDIA_FIELDS, _MEDIA),
    **dict.fromkeys(("mask", "masked"), _MASK),
    "train_detail": "a turn trains as a whole or not at all; write weight: 0 or 1",
    "documents": _PROMPT,
}
"""The same of a turn's fields."""


def refuse_if_meaningful(names: Iterable[str], meanings: Mapping[str, str], where: str = "") -> None:
    """Raise `InvalidRow` if one of the fields that aren't read changes what the row means.

    Args:
        names: Fields that are there, hold something and aren't read.
        meanings: `MEANINGFUL_COLUMNS` or `MEANINGFUL_TURN_FIELDS`.
        where: ``turn 2: ``, or nothing for a column.
    """
    for name in names:
        if name in meanings:
            raise InvalidRow("unread-field", f"{where}`{name}` is not read: {meanings[name]}")


def says_nothing(value: Any) -> bool:
    """Return whether a field's value is as good as none: null or empty."""
    return value is None or value in ("", [], {})


class FieldCount(msgspec.Struct):
    """How many rows have a field, and where the first of them is."""

    num_rows: int
    first: str


class UnreadFields:
    """Counts fields that aren't read, over all rows."""

    def __init__(self) -> None:
        self._counts: dict[str, FieldCount] = {}

    def add(self, field: str, num_rows: int, first: str) -> None:
        """Count a field of some rows, the first of which stands at `first`."""
        if count := self._counts.get(field):
            count.num_rows += num_rows
        else:
            self._counts[field] = FieldCount(num_rows, first)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by field, most frequent first."""
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1].num_rows, item[0]))
        return {field: count.num_rows for field, count in ordered}

    def notes(self, num_rows: int) -> list[str]:
        """Return a sentence for each field."""
        return [
            f"not read: `{field}` in {count:,} of {num_rows:,} rows, first in {self._counts[field].first}"
            for field, count in self.counts.items()
        ]
