"""The name of its source in a sample's line: the last field, which is read without decoding the rest."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

_FIELD = b',"source":"'


def naming(name: str) -> bytes:
    """Return what takes the place of the brace that ends a sample's JSON, so that it names its source.

    Args:
        name: Small letters, digits and ``_``.
    """
    return _FIELD + name.encode() + b'"}'


def source_of(line: bytes) -> str:
    """Return the source's name in a line that ends in `naming`; empty where it names none.

    No text can look like the field at a line's end: its quotes would be escaped.
    """
    content = line.rstrip(b"\r\n")
    begin = content.rfind(_FIELD)
    name = content[begin + len(_FIELD) : -2] if begin >= 0 and content.endswith(b'"}') else b""
    return name.decode() if name and b'"' not in name else ""


def count_sources(file: Path, *, nested: bool = False) -> Counter[str]:
    """Return how many lines of a file are of each source.

    Args:
        file: JSON Lines.
        nested: Whether each sample is the last field of another object.
    """
    counts: Counter[str] = Counter()
    with file.open("rb") as lines:
        for line in lines:
            counts[source_of(line.rstrip(b"\r\n")[:-1] if nested else line)] += 1
    return counts
