"""The prompt of a sample: what two samples have in common if one must not be held out while the other trains."""

from __future__ import annotations

import unicodedata
from string import ascii_lowercase, ascii_uppercase

_ANSWER = b'{"role":"assistant"'
"""How the first assistant turn begins in a sample's JSON. No text can hold it: its quotes would be escaped."""
_LOWER = bytes.maketrans(ascii_uppercase.encode(), ascii_lowercase.encode())
_ESCAPED_SPACES = (b"\\n", b"\\t", b"\\r")


def prompt(line: bytes) -> bytes:
    """Return all turns before the first assistant turn, normalised: case, white space and Unicode form don't count.

    Args:
        line: A sample's JSON, as `sft.chat.sample.encode` writes it.

    Raises:
        ValueError: The sample has no assistant turn.
    """
    text = line[: line.index(_ANSWER)]
    if not text.isascii():
        text = "".join(unicodedata.normalize("NFKC", text.decode()).casefold().split()).encode()
    text = text.translate(_LOWER, b" ")
    if b"\\" in text:
        for space in _ESCAPED_SPACES:
            text = text.replace(space, b"")
    return text
