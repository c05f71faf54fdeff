"""Raw text for continued pre-training: a row that is no conversation, and the pieces that it is trained in.

Its canonical line is that of a sample with one turn of a role of its own, ``{"messages": [{"role": "text", …}]}``,
which no row of another format can have. No chat template is applied to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sft.chat.loss import NO_LOSS
from sft.chat.sample import TEXT


def is_text(sample: Mapping[str, Any]) -> bool:
    """Return whether a sample is a raw text.

    Args:
        sample: With ``messages``.
    """
    return bool(sample["messages"][0]["role"] == TEXT)


def pieces(token_ids: Sequence[int], longest: int) -> list[dict[str, Any]]:
    """Return a document as sequences of at most `longest` tokens, of which each but the document's first counts once.

    A piece begins with the last token of the one before it, as context: so no token is left without what precedes it.

    Args:
        token_ids: Of the document, with the token that ends it.
        longest: Tokens of a piece; 2 at least.

    Returns:
        ``input_ids``, ``labels`` and ``len`` of each.
    """
    ids = list(token_ids)
    starts = range(0, max(len(ids) - 1, 1), longest - 1)
    parts = [ids[start : start + longest] for start in starts]
    return [{"input_ids": part, "labels": [NO_LOSS, *part[1:]], "len": len(part)} for part in parts]
