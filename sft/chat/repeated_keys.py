"""Keys that a JSON object has twice: a parser keeps the last and drops what the others say.

No parser tells, but the keys and texts that are written can be counted, and those that were read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from sft.chat.sample import InvalidRow


def num_written(text: bytes) -> float:
    """Return how many keys and texts valid JSON has: two quotes each, and one within a text has a backslash before it.

    A text that ends in a backslash is miscounted, and a number that is wrong costs the time of a closer look.
    """
    return (text.count(b'"') - text.count(b'\\"')) / 2


def num_read(value: Any) -> int:
    """Return how many keys and texts parsed JSON has, at any depth."""
    num_keys = 0
    if isinstance(value, dict):
        num_keys, value = len(value), value.values()
    elif not isinstance(value, list):
        return int(isinstance(value, str))
    return num_keys + sum([1 if type(inner) is str else num_read(inner) for inner in value])


def refuse_columns(row: bytes, columns: Mapping[str, msgspec.Raw], ignored: Container[str]) -> None:
    """Refuse a row that has a column twice.

    Args:
        row: Its JSON.
        columns: What was read of it.
        ignored: Columns that may stand there as often as they like.

    Raises:
        InvalidRow: It has.
    """
    if num_written(row) != len(columns) + sum(num_written(bytes(raw)) for raw in columns.values()):
        pairs: _Pairs = json.loads(row, object_pairs_hook=_Pairs)
        _refuse(name for name in _twice(pairs) if name not in ignored)


def refuse(text: bytes, value: Any) -> None:
    """Refuse JSON in which an object has a key twice.

    Args:
        text: The JSON.
        value: What was read of it.

    Raises:
        InvalidRow: One has.
    """
    if isinstance(value, dict | list) and num_written(text) != num_read(value):
        _refuse(_repeated(json.loads(text, object_pairs_hook=_Pairs)))


def _refuse(names: Iterable[str]) -> None:
    for name in names:
        raise InvalidRow("repeated-key", f"{name!r} stands twice in one object")


class _Pairs(list[tuple[str, Any]]):
    """An object as it is written."""


def _twice(pairs: _Pairs) -> Iterator[str]:
    return (name for name, count in Counter(name for name, _ in pairs).items() if count > 1)


def _repeated(value: Any) -> Iterator[str]:
    if isinstance(value, _Pairs):
        yield from _twice(value)
        value = [inner for _, inner in value]
    if isinstance(value, list):
        for inner in value:
            yield from _repeated(inner)
