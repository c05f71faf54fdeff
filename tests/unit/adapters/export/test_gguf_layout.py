"""What GGUF calls a model's parts, and which models it can't hold."""

from __future__ import annotations

from typing import Any

import pytest

from sft.adapters.export import gguf_layout
from sft.errors import StageError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "vocab_size": 97,
}


def test_every_tensor_has_its_name() -> None:
    assert gguf_layout.tensor_name("model.layers.11.self_attn.k_proj.bias") == "blk.11.attn_k.bias"
    assert gguf_layout.tensor_name("model.layers.0.mlp.down_proj.weight") == "blk.0.ffn_down.weight"
    assert gguf_layout.tensor_name("lm_head.weight") == "output.weight"
    for name in ("model.layers.0.mlp.experts.weight", "visual.patch.weight", "model.norm.scale"):
        with pytest.raises(StageError, match=f"the tensor {name} has no place"):
            gguf_layout.tensor_name(name)


def test_only_rows_of_llamas_q_and_k_change_places() -> None:
    assert gguf_layout.num_permuted_heads("llama", "model.layers.0.self_attn.q_proj.weight", LLAMA) == 4
    assert gguf_layout.num_permuted_heads("llama", "model.layers.0.self_attn.k_proj.weight", LLAMA) == 2
    assert gguf_layout.num_permuted_heads("llama", "model.layers.0.self_attn.v_proj.weight", LLAMA) is None
    assert gguf_layout.num_permuted_heads("qwen2", "model.layers.0.self_attn.q_proj.weight", LLAMA) is None


def test_hyperparameters_are_those_of_the_config() -> None:
    told = gguf_layout.hyperparameters("llama", LLAMA)
    assert told["llama.attention.key_length"] == 8
    assert told["llama.attention.head_count_kv"] == 2
    assert told["llama.rope.freq_base"] == 10000.0
    assert gguf_layout.architecture_of(LLAMA) == "llama"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM is not written, only LlamaForCausalLM, Qwen2"),
        ({"rope_parameters": {"rope_type": "llama3"}}, r"rotary embedding is scaled \(llama3\)"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"use_sliding_window": True}, "sliding window"),
        ({"attention_bias": True}, "biases"),
        ({"architectures": ["Qwen3ForCausalLM"], "head_dim": 64}, "head_dim is 64"),
    ],
)
def test_what_a_file_could_not_say_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StageError, match=message):
        gguf_layout.architecture_of({**LLAMA, **changes})
