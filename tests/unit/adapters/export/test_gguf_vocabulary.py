"""Tokenizers as GGUF holds them, against the tokenizers library."""

from __future__ import annotations

import copy
import json
from typing import Any

import jinja2
import pytest
from tokenizers import Tokenizer

from sft.adapters.export.gguf_vocabulary import (
    PRE_TOKENIZERS,
    TokenType,
    tokenizer_json,
    vocabulary_of,
    without_generation_marks,
)
from sft.errors import StageError

TEXT = "IT'S 1234567 three  spaces\n\nünï 漢字 <|end|> def f(x):\n    return x+1"


def trained(pre: str) -> dict[str, Any]:
    """A small byte-level BPE tokenizer that splits texts in this way."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT * 3, "the words of a text"], trainer)
    facts: dict[str, Any] = json.loads(tokenizer.to_str())
    facts["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[pre]}
    return facts


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_what_is_made_of_the_vocabulary_alone_has_the_same_tokens(pre: str) -> None:
    facts = trained(pre)
    vocabulary = vocabulary_of(facts, num_embeddings=len(facts["model"]["vocab"]) + 2)
    assert vocabulary.pre == pre
    assert vocabulary.notes == []
    rebuilt = Tokenizer.from_str(json.dumps(tokenizer_json(vocabulary)))
    original = Tokenizer.from_str(json.dumps(facts))
    assert rebuilt.encode(TEXT).ids == original.encode(TEXT).ids
    assert rebuilt.decode(rebuilt.encode(TEXT).ids, skip_special_tokens=False) == TEXT


def test_rows_without_a_token_are_unused_and_added_tokens_keep_their_kind() -> None:
    facts = trained("gpt-2")
    size = len(facts["model"]["vocab"])
    facts["added_tokens"].append({"id": size, "content": "<plain>", "special": False})
    vocabulary = vocabulary_of(facts, num_embeddings=size + 2)
    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert kinds["<|end|>"] == TokenType.control
    assert kinds["<plain>"] == TokenType.user_defined
    assert kinds[f"[PAD{size + 1}]"] == TokenType.unused
    with pytest.raises(StageError, match=f"has the token {size} and the model only {size} embeddings"):
        vocabulary_of(facts, num_embeddings=size)


def test_splits_that_llama_cpp_has_no_name_for_are_refused() -> None:
    facts = trained("gpt-2")
    facts["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, *PRE_TOKENIZERS["gpt-2"]]}
    with pytest.raises(StageError, match=r"splits texts \(Whitespace, ByteLevel\) as none of llama.cpp's gpt-2"):
        vocabulary_of(facts, num_embeddings=1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "Unigram"}, "only byte-level BPE is written, and the model's tokenizer is Unigram"),
        ({"byte_fallback": True}, "the model's tokenizer is BPE with byte fallback"),
        ({"ignore_merges": True}, "no pre-tokenizer gpt-2 with ignore_merges"),
        ({"end_of_word_suffix": "</w>"}, "BPE has no end_of_word_suffix"),
    ],
)
def test_another_kind_of_tokenizer_is_refused(changes: dict[str, Any], message: str) -> None:
    facts = trained("gpt-2")
    facts["model"] |= changes
    with pytest.raises(StageError, match=message):
        vocabulary_of(facts, num_embeddings=1000)


def test_what_is_not_carried_is_said() -> None:
    facts = copy.deepcopy(trained("qwen2"))
    facts["normalizer"] = {"type": "NFC"}
    facts["added_tokens"][0]["lstrip"] = True
    notes = vocabulary_of(facts, num_embeddings=1000).notes
    assert "normalizer NFC is not in GGUF" in notes[0]
    assert "<|end|> loses its lstrip" in notes[1]


def test_a_template_renders_the_same_without_marks_of_generation() -> None:
    template = "a \n{%- generation -%}\n  b {{ x }}\n{%- endgeneration %}\n c{% generation %}d{% endgeneration %}"
    plain = without_generation_marks(template)
    assert "generation" not in plain
    assert jinja2.Template(plain).render(x=1) == "ab 1\n cd"
    assert without_generation_marks("{% if generation %}x{% endif %}") == "{% if generation %}x{% endif %}"
