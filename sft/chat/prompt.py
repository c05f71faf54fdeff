"""The prompt of a sample: what two samples have in common if one must not be held out while the other trains."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_ANSWER = b'{"role":"assistant"'
"""How the first assistant turn begins in a sample's JSON. No text can hold it: its quotes would be escaped."""
_SPACE = ord(" ")
_ESCAPED_SPACES = (b"\\n", b"\\t", b"\\r")


def prompts(lines: Sequence[bytes]) -> list[bytes]:
    """Return each sample's turns before the first assistant turn, normalised.

    Case, white space and how Unicode composes its characters don't count.

    Args:
        lines: The samples' JSON, as `sft.chat.sample.encode` writes it.

    Raises:
        ValueError: A sample has no assistant turn.
    """
    import numpy as np

    if not lines:
        return []
    texts = [line[: line.index(_ANSWER)] for line in lines]
    if not all(map(bytes.isascii, texts)):
        texts = [text if text.isascii() else _folded(text) for text in texts]
    joined = np.frombuffer(b"\n".join(texts), dtype=np.uint8)  # JSON holds no line end: it is escaped
    text: bytes = joined[joined != _SPACE].tobytes().lower()
    if b"\\" in text:
        for escaped in _ESCAPED_SPACES:
            text = text.replace(escaped, b"")
    return text.split(b"\n")


def _folded(text: bytes) -> bytes:
    return "".join(unicodedata.normalize("NFC", text.decode().casefold()).split()).encode()
