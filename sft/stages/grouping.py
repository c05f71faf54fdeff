"""What samples must have in common to stay together in the split: `dataset.split_by`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sft.chat.prompt import prompts
from sft.chat.sample import InvalidRow
from sft.errors import DataError

PROMPT, ROW = "prompt", "row"


class Grouping:
    """Tells samples' groups.

    Args:
        by: `PROMPT`, `ROW`, or the name of a column of the source.

    Attributes:
        column: That name; None for the other two.
    """

    def __init__(self, by: str) -> None:
        self._by_prompt = by == PROMPT
        self.column = None if by in (PROMPT, ROW) else by
        self._is_known = False
        field: list[Any] = [("value", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET)]
        row_type = msgspec.defstruct("Row", field, rename={"value": by})
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(row_type).decode

    def of_samples(self, lines: Sequence[bytes]) -> list[bytes] | None:
        """Return the groups of samples by their JSON; None where each is its own."""
        return prompts(lines) if self._by_prompt else None

    def of_row(self, row: bytes) -> bytes:
        """Return the group of a valid row of the source by its column; a row with null in it is its own group.

        Raises:
            DataError: The first row has no such column.
            InvalidRow: A later row has no such column.
        """
        value = self._decode(row).value
        if value is msgspec.UNSET:
            names = ", ".join(msgspec.json.decode(row))
            if self._is_known:
                raise InvalidRow("missing-column", f"no {self.column} (dataset.split_by); the row's columns: {names}")
            raise DataError(
                f"dataset.split_by={self.column}: the source has no such column; its columns: {names}",
                fix="name one of them, or take prompt or row",
            )
        self._is_known = True
        content = bytes(value)
        return row if content == b"null" else content
