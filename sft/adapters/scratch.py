"""Owns models made from nothing: a small Qwen2-architecture model with random weights and a tokenizer trained on
the training split. A child process: `python -m sft.adapters.scratch`.

The tokenizer is a byte-level BPE with Qwen2's pre-tokenization (digits stand alone) and ChatML turns, so every
text can be encoded and the terminator of a turn is the end-of-sequence token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft.adapters import child

_END_OF_TEXT, _TURN, _END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Qwen2's pattern (transformers, models/qwen2/tokenization_qwen2.py): words, single digits, punctuation, spaces.
_PRETOKENIZE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _make(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child: writes config, weights and tokenizer into ``request["target"]``.

    Request: ``train_file``, ``target``, ``shape`` (the fields of `ScratchConfig`).
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = dict(request["shape"])
    seed, target = shape.pop("seed"), Path(request["target"])
    tokenizer = _train_tokenizer(Path(request["train_file"]), shape.pop("vocab_size"), shape["max_position_embeddings"])
    config = Qwen2Config(
        **shape,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return {"num_parameters": sum(p.numel() for p in model.parameters()), "vocab_size": len(tokenizer)}


def _train_tokenizer(train_file: Path, vocab_size: int, max_length: int) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRETOKENIZE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END_OF_TEXT, _TURN, _END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_texts(train_file), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=_END_OF_TURN, pad_token=_END_OF_TEXT, model_max_length=max_length
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [_TURN]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _texts(train_file: Path) -> Iterator[str]:
    with train_file.open(encoding="utf-8") as file:
        for line in file:
            for message in json.loads(line)["messages"]:
                yield f"{message['role']}\n{message['content']}\n"


if __name__ == "__main__":
    child.main(_make)
