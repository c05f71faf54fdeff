"""The texts of pieces are exact, whatever the tokenizer makes of characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from sft.adapters.instructlab.token_texts import pieces_of
from sft.chat.loss import NO_LOSS

TEXTS = ["plain words here", "Füße ☕ 東京 👩‍👩‍👧 ok", "a\n\n  b\t c", "x\u0301y"]


@pytest.fixture(scope="module")
def byte_level() -> Any:
    """A token per byte, as byte-level BPE without any merge: an emoji is four tokens or more."""
    import tokenizers
    import transformers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(byte_alphabet(), []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    return fast


def byte_alphabet() -> dict[str, int]:
    import tokenizers

    return {text: number for number, text in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}


@pytest.fixture(scope="module")
def sentence_pieces() -> Any:
    """Spaces as a character before words, the first one dropped when decoded, unknown characters as bytes."""
    import tokenizers
    import transformers

    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdehilnoprstwxy"]
    vocabulary = [(piece, -1.0) for piece in pieces]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    decoders = tokenizers.decoders
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def labels(ids: Sequence[int], begin: int, end: int) -> list[int]:
    return [id_ if begin <= place < end else NO_LOSS for place, id_ in enumerate(ids)]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["byte_level", "sentence_pieces"])
def test_pieces_together_are_the_whole_text_wherever_the_loss_begins(
    text: str, kind: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) >= len(text) - 1
    for begin in range(1, len(ids)):
        pieces = pieces_of(ids, labels(ids, begin, len(ids)), tokenizer)
        assert [piece["is_loss"] for piece in pieces] == [False, True]
        assert "".join(piece["text"] for piece in pieces) == text
        assert [id_ for piece in pieces for id_ in piece["token_ids"]] == ids
        assert len(pieces[0]["token_ids"]) == begin


def test_a_character_that_the_loss_begins_in_the_middle_of_belongs_to_the_loss(byte_level: Any) -> None:
    ids = byte_level("a☕b", add_special_tokens=False)["input_ids"]
    assert len(ids) == 5
    assert [piece["text"] for piece in pieces_of(ids, labels(ids, 2, 5), byte_level)] == ["a", "☕b"]
    assert [piece["text"] for piece in pieces_of(ids, labels(ids, 1, 5), byte_level)] == ["a", "☕b"]


def test_each_special_token_is_a_piece(byte_level: Any) -> None:
    text = "<|im_start|><|im_start|>user\nhi<|im_end|>"
    ids = byte_level(text, add_special_tokens=False)["input_ids"]
    pieces = pieces_of(ids, labels(ids, len(ids) - 3, len(ids)), byte_level)
    assert [(p["text"], p["is_special"], p["is_loss"]) for p in pieces] == [
        ("<|im_start|>", True, False),
        ("<|im_start|>", True, False),
        ("user\n", False, False),
        ("hi", False, True),
        ("<|im_end|>", True, True),
    ]
