"""Samples as the model sees them, for a terminal, as a page, or as JSON."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import msgspec

from sft.files import json_text
from sft.report.page import as_page
from sft.stages.preview import Piece, TokenizedSample

_LOSS, _CONTEXT, _SPECIAL, _PLAIN = "\x1b[32m", "\x1b[2m", "\x1b[7m", "\x1b[0m"
_BEGIN, _END = "⟦", "⟧"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def as_text(samples: Sequence[TokenizedSample], *, in_color: bool) -> str:
    """Return samples as text.

    Args:
        samples: What to show.
        in_color: Whether the loss is green, context dim and special tokens inverse; otherwise the loss stands in
            brackets.
    """
    legend = (
        f"{_LOSS}counts for the loss{_PLAIN}, {_CONTEXT}context{_PLAIN}, {_SPECIAL}special token{_PLAIN}"
        if in_color
        else f"{_BEGIN}counts for the loss{_END}"
    )
    texts = [f"{_title(number, sample)}: {legend}\n{_shown(sample, in_color)}" for number, sample in _numbered(samples)]
    return "\n\n".join(texts)


def _shown(sample: TokenizedSample, in_color: bool) -> str:
    if in_color:
        return "".join(_colored(piece) for piece in sample.pieces)
    parts, is_open = [], False
    for piece in sample.pieces:
        if piece.is_loss != is_open:
            parts.append(_BEGIN if piece.is_loss else _END)
            is_open = piece.is_loss
        parts.append(_visible(piece.text))
    return "".join([*parts, _END if is_open else ""])


def _colored(piece: Piece) -> str:
    style = (_LOSS if piece.is_loss else _CONTEXT) + (_SPECIAL if piece.is_special else "")
    return f"{style}{_visible(piece.text)}{_PLAIN}"


def _visible(text: str) -> str:
    """Return a text whose control characters can't move the cursor or turn the line around."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def as_json(samples: Sequence[TokenizedSample]) -> str:
    """Return samples for machines, token ids included."""
    return json_text(msgspec.to_builtins(samples))


def as_html(title: str, samples: Sequence[TokenizedSample]) -> str:
    """Return one page that needs nothing else."""
    return as_page(title, section(samples))


def section(samples: Sequence[TokenizedSample]) -> str:
    """Return samples as a part of a page."""
    blocks = (
        f'<h3>{_title(number, sample)}</h3><pre class="block">{"".join(map(_marked, sample.pieces))}</pre>'
        for number, sample in _numbered(samples)
    )
    return "\n".join(blocks)


def _marked(piece: Piece) -> str:
    kind = ("loss" if piece.is_loss else "context") + (" special" if piece.is_special else "")
    return f'<span class="{kind}">{html.escape(_visible(piece.text))}</span>'


def _numbered(samples: Sequence[TokenizedSample]) -> Sequence[tuple[int, TokenizedSample]]:
    return list(enumerate(samples, start=1))


def _title(number: int, sample: TokenizedSample) -> str:
    return f"sample {number}, {sample.num_tokens:,} tokens, {sample.num_loss_tokens:,} for the loss"
