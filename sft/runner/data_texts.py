"""Take out of texts what stands in data too: an error quotes a row, a log an answer.

What four words in a row have in common with the data is taken out, or all of a shorter text of it. The texts are kept
in memory, the data is read through once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

MASK = "(a text of the data)"
_WINDOW = 4
_LONG_WORD = 16
"""Characters of a word that is taken out alone, if it is a whole text of the data."""
_SHORTEST = 8
_WORD = re.compile(r"[\u2e80-\ud7ff\uf900-\ufaff]|[^\W\u2e80-\ud7ff\uf900-\ufaff]+")
"""A word; in scripts without spaces a character."""
_QUOTED = re.compile(r"\"(?:[^\"\\\n]|\\.){12,4096}\"")
_LONGEST_LINE = 1 << 24


class DataTexts:
    """Texts out of which the data is taken.

    Args:
        texts: All of them.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._wanted = {key for text in texts for key, _, _ in _windows(text)}
        self._found: set[str] = set()

    def read(self, files: Iterable[Path], max_bytes: int) -> int:
        """Search data, and return how many bytes of it were left out because there are more than `max_bytes`."""
        left = max_bytes
        skipped = 0
        for file in files:
            if file.stat().st_size > left:
                skipped += file.stat().st_size - left
            with file.open("rb") as lines:
                while left > 0 and (line := lines.readline(min(_LONGEST_LINE, left))):
                    left -= len(line)
                    for text in _texts(line):
                        self._found |= self._wanted.intersection(_keys(text))
        return skipped

    def without(self, text: str) -> str:
        """Return a text without what was found in the data, and without long quotations, which may be of a row."""
        kept, end = [], 0
        for start, stop in _merged(place for key, *place in _windows(text) if key in self._found):
            kept += [text[end:start], MASK]
            end = stop
        return _QUOTED.sub(lambda quoted: f'"({len(quoted[0]) - 2} characters)"', "".join([*kept, text[end:]]))

    def tree_without(self, tree: Any) -> Any:
        """Return dictionaries and lists with each text in them without the data."""
        match tree:
            case str():
                return self.without(tree)
            case dict():
                return {key: self.tree_without(value) for key, value in tree.items()}
            case list():
                return [self.tree_without(value) for value in tree]
        return tree


def texts_of(tree: Any) -> Iterator[str]:
    """Yield every text of dictionaries and lists, keys aside."""
    match tree:
        case str():
            yield tree
        case dict():
            for value in tree.values():
                yield from texts_of(value)
        case list():
            for value in tree:
                yield from texts_of(value)


def _texts(line: bytes) -> Iterator[str]:
    """Yield the texts of a line of data: of JSON its values, else the line."""
    try:
        yield from texts_of(msgspec.json.decode(line))
    except (msgspec.DecodeError, RecursionError):
        yield line.decode("utf-8", errors="replace")


def _words(text: str) -> list[re.Match[str]]:
    return list(_WORD.finditer(text))


def _keys(text: str) -> Iterator[str]:
    """Yield what is looked for of a text of the data: each four words, or all of fewer."""
    words = _words(text)
    if len(words) >= _WINDOW:
        yield from (" ".join(word[0] for word in words[i : i + _WINDOW]) for i in range(len(words) - _WINDOW + 1))
    elif _is_telling(words):
        yield " ".join(word[0] for word in words)


def _windows(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield each one to four words of a text that may be the data's, and where they stand."""
    words = _words(text)
    for size in range(1, _WINDOW + 1):
        for start in range(len(words) - size + 1):
            window = words[start : start + size]
            if size == _WINDOW or _is_telling(window):
                yield " ".join(word[0] for word in window), window[0].start(), window[-1].end()


def _is_telling(words: Sequence[re.Match[str]]) -> bool:
    length = sum(len(word[0]) for word in words)
    return length >= (_LONG_WORD if len(words) == 1 else _SHORTEST)


def _merged(places: Iterable[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Yield spans that don't overlap, in order."""
    start = end = -1
    for begin, stop in sorted(map(tuple, places)):
        if begin > end:
            if end > 0:
                yield start, end
            start = begin
        end = max(end, stop)
    if end > 0:
        yield start, end


def as_json(tree: Any) -> str:
    """Return a tree as JSON that a person reads."""
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"
