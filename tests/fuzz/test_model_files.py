"""Whatever a model's small files hold, they are read or refused in words: config, tokenizer settings, generation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sft.adapters.checkpoint_files import config_dtype, read_json
from sft.chat.special_tokens import special_tokens, stops
from sft.config.schema import LoraConfig
from sft.planning.adapters import num_adapter_parameters
from sft.planning.model_shape import activations, shape_of
from sft.stages.chat_template import named_templates
from sft.stages.model_checks import check_config
from tests.fuzz.search import search
from tests.fuzz.test_parsers import JSON

QWEN = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "vocab_size": 315,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
MIXTURE = {
    **QWEN,
    "model_type": "qwen3_moe",
    "head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "quantization_config": {"quant_method": "fp8"},
    "text_config": {"dtype": "float32"},
}
ODD = {
    **QWEN,
    "model_type": "opt",
    "attention_bias": "x",  # a text times a large number
    "auto_map": ["a.B"],
    "text_config": "x",
    "architectures": 1,
}
OWN_CODE = {
    **QWEN,
    "model_type": "llama",
    "auto_map": {"AutoConfig": "configuration.Config", "AutoModel": ["a.B", "c.D"]},
    "attn_implementation": "sdpa",
}
WORDS = [
    *(b'"model_type"', b'"llama"', b'"gemma2"', b'"auto_map"', b'"text_config"', b'"architectures"', b'"head_dim"'),
    *(b'"quantization_config"', b'"attention_bias"', b'"mlp_bias"', b'"num_experts"', b'"x"', b'"x/y--z"', b"2", b"-1"),
]


def test_a_config_is_taken_or_refused_and_its_memory_is_a_number(tmp_path: Path) -> None:
    file = tmp_path / "config.json"

    def parse(content: bytes) -> None:
        file.write_bytes(content)
        config = read_json(file)
        assert config_dtype(config) is None or config_dtype(config)
        if shape := shape_of(config):
            assert all(math.isfinite(float(n)) and n > 0 for n in (shape.num_parameters, activations(shape, 2)))
            assert num_adapter_parameters(LoraConfig(rank=8), shape) > 0
        check_config(config, "model.name_or_path")

    seeds = [json.dumps(config).encode() for config in (QWEN, MIXTURE, OWN_CODE, ODD)]
    search(parse, seeds, [*JSON, *WORDS])


def test_a_tokenizers_settings_have_templates_or_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer_config.json"

    def parse(content: bytes) -> None:
        file.write_bytes(content)
        assert all(isinstance(text, str) for pair in named_templates(tmp_path).items() for text in pair)

    several = [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": "{{ tools }}"}]
    seeds = [json.dumps({"chat_template": value}).encode() for value in ("{{ messages }}", several)]
    search(parse, seeds, [*JSON, b'"chat_template"', b'"name"', b'"template"'], naming=str(file))


def test_where_a_model_stops_is_read_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "generation_config.json"
    tokens = ["<unk>", "<s>", "</s>", "<|im_end|>"]
    tokenizer: Any = SimpleNamespace(
        eos_token_id=2,
        added_tokens_decoder={2: SimpleNamespace(content="</s>", special=True)},
        # As transformers' fast tokenizers: None for a number that no token has.
        convert_ids_to_tokens=lambda ids: [tokens[n] if 0 <= n < len(tokens) else None for n in ids],
    )

    def parse(content: bytes) -> None:
        file.write_bytes(content)
        assert special_tokens(tokenizer, stops(tokenizer, tmp_path)).search("</s>")

    seeds = [b'{"eos_token_id": [2, 3], "temperature": 0.7}', b'{"eos_token_id": 3}', b'{"eos_token_id": null}']
    search(parse, seeds, [*JSON, b'"eos_token_id"', b"3", b"[3, 99]", b"1.5"], naming=str(file))
