"""Owns models made from nothing: a small Qwen2-architecture model with random weights and a tokenizer trained on
the training split. A child process: `python -m sft.adapters.random_model`.

The tokenizer is a byte-level BPE with Qwen2's pre-tokenization (digits stand alone) and ChatML turns, so every
text can be encoded and the terminator of a turn is the end-of-sequence token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft.adapters.os import child
from sft.files import write_json

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

    Request: ``train_file``, ``target``, ``shape`` (the fields of `ScratchConfig`). Torch and transformers stay out:
    their import takes longer than all of this.
    """
    shape = dict(request["shape"])
    seed, target = shape.pop("seed"), Path(request["target"])
    tokenizer = _train_tokenizer(Path(request["train_file"]), shape.pop("vocab_size"))
    config = {
        **shape,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": tokenizer.get_vocab_size(),
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.token_to_id(_END_OF_TURN),
        "pad_token_id": tokenizer.token_to_id(_END_OF_TEXT),
        "dtype": "float32",
    }
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _END_OF_TURN,
        "pad_token": _END_OF_TEXT,
        "additional_special_tokens": [_TURN],
        "model_max_length": shape["max_position_embeddings"],
    }
    write_json(target / "config.json", config)
    write_json(target / "tokenizer_config.json", facts)
    tokenizer.save(str(target / "tokenizer.json"))
    (target / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return {"num_parameters": _write_weights(config, seed, target), "vocab_size": config["vocab_size"]}


def _write_weights(config: Mapping[str, Any], seed: int, target: Path) -> int:
    """Random weights under transformers' names for a Qwen2 (models/qwen2/modeling_qwen2.py); returns how many.

    As transformers initialises them: normal with ``initializer_range``, biases 0, norms 1.
    """
    import numpy as np
    from safetensors.numpy import save_file

    numbers, width, inner = np.random.default_rng(seed), config["hidden_size"], config["intermediate_size"]
    head = width // config["num_attention_heads"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]

    def normal(*size: int) -> Any:
        return (numbers.standard_normal(size) * config["initializer_range"]).astype(np.float32)

    def zeros(size: int) -> Any:
        return np.zeros(size, np.float32)

    def ones(size: int) -> Any:
        return np.ones(size, np.float32)

    weights = {"model.embed_tokens.weight": normal(config["vocab_size"], width), "model.norm.weight": ones(width)}
    for number in range(config["num_hidden_layers"]):
        layer = {
            "input_layernorm.weight": ones(width),
            "self_attn.q_proj.weight": normal(queries, width),
            "self_attn.q_proj.bias": zeros(queries),
            "self_attn.k_proj.weight": normal(keys, width),
            "self_attn.k_proj.bias": zeros(keys),
            "self_attn.v_proj.weight": normal(keys, width),
            "self_attn.v_proj.bias": zeros(keys),
            "self_attn.o_proj.weight": normal(width, queries),
            "post_attention_layernorm.weight": ones(width),
            "mlp.gate_proj.weight": normal(inner, width),
            "mlp.up_proj.weight": normal(inner, width),
            "mlp.down_proj.weight": normal(width, inner),
        }
        weights |= {f"model.layers.{number}.{name}": value for name, value in layer.items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return sum(int(value.size) for value in weights.values())


def _train_tokenizer(train_file: Path, vocab_size: int) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

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
    return backend


def _texts(train_file: Path) -> Iterator[str]:
    with train_file.open(encoding="utf-8") as file:
        for line in file:
            for message in json.loads(line)["messages"]:
                yield f"{message['role']}\n{message['content']}\n"


if __name__ == "__main__":
    child.main(_make)
