"""The prompt of a sample: what two samples have in common if one must not be held out while the other trains."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_ANSWER = b'{"role":"assistant"'
"""How the first assistant turn begins in a sample's JSON. No text can hold it: its quotes would be escaped."""
_TEXT = b'{"messages":[{"role":"text"'
"""How a raw text begins, which is its own prompt."""
_END = b'"},'
"""How the turn before it ends."""
_FLAG = b',"weight":0}'
_SPACES = (b" ", b"\\n", b"\\t", b"\\r")
_SPACE_ENDS = tuple(space + _END for space in _SPACES)


def prompts(lines: Sequence[bytes]) -> list[bytes]:
    """Return each sample's turns before the first assistant turn, or its raw text, normalised.

    Case, white space at the end and how Unicode composes its characters don't count. White space between words does:
    to look at each takes as long as all the rest of reading a row.

    Args:
        lines: The samples' JSON, as `sft.chat.sample.encode` writes it.

    Raises:
        ValueError: A sample has no assistant turn.
    """
    texts = [line if line.startswith(_TEXT) else _prompt(line) for line in lines]
    return [
        text.lower() if text.isascii() and not text.endswith(_SPACE_ENDS) else _normalised(text.decode())
        for text in texts
    ]


def _prompt(line: bytes) -> bytes:
    """Return what precedes the first answer, without flags that say that a turn doesn't train."""
    return line[: line.index(_ANSWER)].replace(_FLAG, b"}")


def _normalised(text: str) -> bytes:
    content = unicodedata.normalize("NFC", text.casefold()).encode()
    while content.endswith(_SPACE_ENDS):
        content = content[: -len(_END)]
        space = next(space for space in _SPACES if content.endswith(space))
        content = content[: -len(space)] + _END
    return content
