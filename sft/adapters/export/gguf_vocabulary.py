"""Owns a tokenizer as GGUF holds it: byte-level BPE only, with the name of its pre-tokenizer. Pure.

GGUF names a pre-tokenizer (``tokenizer.ggml.pre``) that llama.cpp has in C++; another one can't be written.
Names and expressions: llama.cpp, src/llama-vocab.cpp, ``llm_tokenizer_bpe``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from sft.errors import StageError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES: Mapping[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def _split(digits: str) -> list[dict[str, Any]]:
    pattern = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}{_REST}"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, {**_BYTES, "use_regex": False}]


PRE_TOKENIZERS: Mapping[str, list[dict[str, Any]]] = {
    "gpt-2": [{**_BYTES, "use_regex": True}],
    "smollm": [{"type": "Digits", "individual_digits": True}, {**_BYTES, "use_regex": True}],
    "qwen2": _split(r"\p{N}"),
    "llama-bpe": _split(r"\p{N}{1,3}"),
}
"""llama.cpp's name -> the same as the parts of a ``Sequence`` in ``tokenizer.json``."""
_WHOLE_WORDS_FIRST = {"llama-bpe"}
"""Of which llama.cpp takes a word that is a token as it is, without merges (``ignore_merges``)."""
_GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")


class TokenType(IntEnum):
    """``tokenizer.ggml.token_type`` (llama.h, ``llama_token_type``)."""

    normal = 1
    control = 3
    user_defined = 4
    unused = 5


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A tokenizer without its template.

    Attributes:
        tokens: Text of each id, in the spelling of byte-level BPE, added ones as they are.
        types: Of each id.
        merges: Pairs of tokens, ``left right``.
        pre: llama.cpp's name of the pre-tokenizer.
        notes: What GGUF does not carry, a line each.
    """

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    notes: list[str] = field(default_factory=list)


def vocabulary_of(tokenizer: Mapping[str, Any], num_embeddings: int) -> Vocabulary:
    """Return a tokenizer as GGUF holds it.

    Args:
        tokenizer: As in ``tokenizer.json``, of the tokenizer in effect: transformers replaces parts of some.
        num_embeddings: Rows of the embedding matrix; those without a token are written as unused ones.

    Raises:
        StageError: llama.cpp has no such tokenizer.
    """
    model = tokenizer["model"]
    parts = _parts(tokenizer.get("pre_tokenizer"), "pretokenizers")
    if model["type"] != "BPE" or model.get("byte_fallback") or not any(p["type"] == "ByteLevel" for p in parts):
        kind = "BPE with byte fallback" if model.get("byte_fallback") else model["type"]
        raise StageError(f"GGUF: only byte-level BPE is written, and the model's tokenizer is {kind}", fix=_ELSEWHERE)
    pre = _pre_tokenizer(parts)
    if bool(model.get("ignore_merges")) != (pre in _WHOLE_WORDS_FIRST):
        what = "with" if model.get("ignore_merges") else "without"
        raise StageError(f"GGUF: llama.cpp has no pre-tokenizer {pre} {what} ignore_merges", fix=_ELSEWHERE)
    if set_parts := [
        name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(name)
    ]:
        raise StageError(f"GGUF: llama.cpp's BPE has no {' and no '.join(set_parts)}", fix=_ELSEWHERE)
    texts = {number: text for text, number in model["vocab"].items()}
    types = dict.fromkeys(texts, TokenType.normal)
    for added in tokenizer.get("added_tokens", ()):
        texts[added["id"]] = added["content"]
        types[added["id"]] = TokenType.control if added["special"] else TokenType.user_defined
    if max(texts) >= num_embeddings:
        message = f"the tokenizer has the token {max(texts)} and the model only {num_embeddings} embeddings"
        raise StageError(message, fix="train with the tokenizer of the base model")
    numbers = range(num_embeddings)
    return Vocabulary(
        tokens=[texts.get(number, f"[PAD{number}]") for number in numbers],
        types=[int(types.get(number, TokenType.unused)) for number in numbers],
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        pre=pre,
        notes=list(_notes(tokenizer)),
    )


def tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return as ``tokenizer.json`` what llama.cpp makes of a vocabulary: no normalizer, nothing put before a text."""
    numbers = {text: number for number, text in enumerate(vocabulary.tokens)}
    added = [
        {
            "id": number,
            "content": text,
            "special": kind == TokenType.control,
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
        }
        for number, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in (TokenType.control, TokenType.user_defined)
    ]
    rest = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[vocabulary.pre]},
        "post_processor": None,
        "decoder": {**_BYTES, "use_regex": True},
        "model": {
            "type": "BPE",
            **rest,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": vocabulary.pre in _WHOLE_WORDS_FIRST,
            "vocab": numbers,
            "merges": [merge.split(" ") for merge in vocabulary.merges],
        },
    }


def without_generation_marks(template: str) -> str:
    """Return a chat template without ``{% generation %}``, which only training reads and llama.cpp does not know."""
    return _GENERATION.sub(lambda mark: f"{mark[1]}{'endif' if mark[2] else 'if true'}{mark[3]}", template)


def _parts(step: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer."""
    if step is None:
        return []
    return [part for each in step[name] for part in _parts(each, name)] if step["type"] == "Sequence" else [step]


def _pre_tokenizer(parts: list[Mapping[str, Any]]) -> str:
    for name, known in PRE_TOKENIZERS.items():
        if [_plain(part) for part in known] == [_plain(part) for part in parts]:
            return name
    told = ", ".join(part["type"] for part in parts)
    rule = f"GGUF: the tokenizer splits texts ({told}) as none of llama.cpp's {', '.join(PRE_TOKENIZERS)} does"
    raise StageError(rule, fix=_ELSEWHERE)


def _plain(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step without what doesn't change the tokens."""
    return {key: value for key, value in part.items() if key != "trim_offsets"}


def _notes(tokenizer: Mapping[str, Any]) -> Iterator[str]:
    for step in _parts(tokenizer.get("normalizer"), "normalizers"):
        yield f"the tokenizer's normalizer {step['type']} is not in GGUF: llama.cpp takes texts as they come"
    for added in tokenizer.get("added_tokens", ()):
        if marks := [mark for mark in ("lstrip", "rstrip", "single_word", "normalized") if added.get(mark)]:
            yield f"the token {added['content']} loses its {' and '.join(marks)}, which GGUF has no field for"


_ELSEWHERE = "another format (--to), or llama.cpp's own convert_hf_to_gguf.py"
