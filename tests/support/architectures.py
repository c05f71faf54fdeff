"""A tiny random model of each architecture whose chat template docs/templates.md lists, and of some more."""

from __future__ import annotations

from typing import Any

VOCABULARY = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 256,
}
_MOE = {
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
}
_MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "qk_nope_head_dim": 8}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_SLIDING = {"sliding_window": 5}
ATTENTION_ONLY: dict[str, dict[str, Any]] = {
    **{
        name: {}
        for name in ("llama", "qwen2", "qwen3", "gemma", "phi3", "granite", "smollm3", "cohere", "olmo2", "glm4")
    },
    **dict.fromkeys(("mistral", "gemma2", "gemma3_text", "cohere2", "ministral3", "olmo3"), _SLIDING),
    **dict.fromkeys(("mixtral", "qwen3_moe", "granitemoe"), _MOE),
    "qwen2_moe": _MOE,
    "gpt_oss": {**_MOE, **_SLIDING},
    "deepseek_v3": {**_MOE, **_MLA, "num_key_value_heads": 4, "n_group": 1, "topk_group": 1},
    "glm4_moe": {**_MOE, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "gemma4_text": {
        **_SLIDING,
        "global_head_dim": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 4,
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_neox": {},
    "llama4_text": {**_MOE, "attention_chunk_size": 6},
}
"""Layers of them know other tokens by attention alone."""
HYBRID: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_next": {**_MOE, **_LINEAR, "layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {**_LINEAR, "layer_types": ["linear_attention", "full_attention"]},
    "granitemoehybrid": {**_MOE, **_MAMBA, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 16},
    "nemotron_h": {
        **_MOE,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "layers_block_type": ["mamba", "attention"],
    },
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "mamba": {"state_size": 4},
}
"""Layers of them know earlier tokens by a state or a convolution."""
ROPES: dict[str, dict[str, Any]] = {
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {},
    "longrope": {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 2.1, 2.2, 2.3]},
    "linear": {},
    "dynamic": {},
}
"""Kinds of RoPE whose frequencies are computed otherwise, with what they need besides."""


def installed() -> list[str]:
    """The architectures that this version of transformers has."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return [name for name in (*ATTENTION_ONLY, *HYBRID) if name in CONFIG_MAPPING]


def tiny(architecture: str, **settings: Any) -> Any:
    """A random model in fp32, as transformers makes it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    own = {**ATTENTION_ONLY, **HYBRID}[architecture]
    config = AutoConfig.for_model(architecture, **{**SHAPE, "initializer_range": 0.3, **own, **settings})
    return AutoModelForCausalLM.from_config(config)


def with_rope(kind: str) -> Any:
    """A Llama with another kind of RoPE."""
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    return tiny("llama", rope_parameters={**rope, **ROPES[kind]})
