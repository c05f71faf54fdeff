"""The loss can be seen with colour and without, and no text can play with the terminal or the page."""

from __future__ import annotations

import json
import re

from sft.report.preview import as_html, as_json, as_text
from sft.stages.preview import Piece, TokenizedSample

SAMPLE = TokenizedSample(
    [
        Piece("<|im_start|>", [1], is_loss=False, is_special=True),
        Piece("user\n<b>12</b>\x1b[2J\u202e", [2, 3, 4], is_loss=False, is_special=False),
        Piece("one ☕", [5, 6], is_loss=True, is_special=False),
        Piece("<|im_end|>", [7], is_loss=True, is_special=True),
        Piece("\n", [8], is_loss=False, is_special=False),
    ]
)


def test_without_colour_the_loss_stands_in_brackets() -> None:
    text = as_text([SAMPLE], in_color=False)
    assert "<b>12</b>\\x1b[2J\\u202e⟦one ☕<|im_end|>⟧\n" in text
    assert text.startswith("sample 1, 8 tokens, 3 for the loss: ⟦counts for the loss⟧\n")
    assert "\x1b" not in text


def test_a_sample_that_ends_with_the_loss_closes_the_bracket() -> None:
    assert as_text([TokenizedSample(SAMPLE.pieces[:4])], in_color=False).endswith("<|im_end|>⟧")


def test_in_colour_the_loss_is_green_the_context_dim_and_a_special_token_inverse() -> None:
    text = as_text([SAMPLE], in_color=True)
    assert "\x1b[32mone ☕\x1b[0m\x1b[32m\x1b[7m<|im_end|>\x1b[0m" in text
    assert "\x1b[2m\x1b[7m<|im_start|>\x1b[0m\x1b[2muser\n" in text
    assert "\x1b[2J" not in text
    assert "⟦" not in text
    assert re.sub(r"\x1b\[\d*m", "", text).endswith("<|im_start|>user\n<b>12</b>\\x1b[2J\\u202eone ☕<|im_end|>\n")


def test_json_holds_every_token_and_the_exact_text() -> None:
    [sample] = json.loads(as_json([SAMPLE]))
    assert [id_ for piece in sample["pieces"] for id_ in piece["token_ids"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert sample["pieces"][1]["text"] == "user\n<b>12</b>\x1b[2J\u202e"


def test_the_page_shows_hostile_text_as_text() -> None:
    page = as_html("<title>", [SAMPLE])
    assert '<span class="loss">one ☕</span><span class="loss special">&lt;|im_end|&gt;</span>' in page
    assert "&lt;b&gt;12" in page
    assert "<b>" not in page
