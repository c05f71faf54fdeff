"""Owns what a GGUF file calls a model's tensors and hyperparameters, for the architectures that are written. Pure.

Names: llama.cpp, gguf-py/gguf/constants.py; the order of rows in Llama's q and k: ``LlamaModel.permute`` there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sft.errors import StageError

ARCHITECTURES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
_QWEN3_HEAD = 128
"""Of every published Qwen3, and the only one that transformers reads back (GGUF_CONFIG_MAPPING@5.23)."""
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_IN_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
_FIX = "another format (--to), or llama.cpp's own convert_hf_to_gguf.py"


def tensor_name(name: str) -> str:
    """Return what GGUF calls a tensor.

    Args:
        name: As in the checkpoint, ``model.layers.0.mlp.up_proj.weight``.

    Raises:
        StageError: It has no name there.
    """
    stem, _, kind = name.rpartition(".")
    block = _IN_BLOCK.fullmatch(stem)
    target = f"blk.{block[1]}.{_BLOCK[block[2]]}" if block and block[2] in _BLOCK else _NAMES.get(stem)
    if target is None or kind not in ("weight", "bias"):
        raise StageError(f"GGUF: the tensor {name} has no place in it", fix=_FIX)
    return f"{target}.{kind}"


def num_permuted_heads(architecture: str, name: str, config: Mapping[str, Any]) -> int | None:
    """Return by how many heads a tensor's rows are rearranged; None if they stay.

    Llama's rotary embedding in GGUF takes neighbouring rows as pairs, transformers' row i and i + head size / 2.
    """
    if architecture != "llama":
        return None
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    return next((num for part, num in heads.items() if f"self_attn.{part}." in name), None)


def architecture_of(config: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of a model's architecture.

    Args:
        config: As transformers' config of the model has it.

    Raises:
        StageError: It is not written, or does something that GGUF files of it can't say.
    """
    named = (config.get("architectures") or ["none"])[0]
    if named not in ARCHITECTURES:
        raise StageError(f"GGUF: {named} is not written, only {', '.join(ARCHITECTURES)}", fix=_FIX)
    if reasons := list(_not_carried(ARCHITECTURES[named], config)):
        raise StageError(f"GGUF: {named} can't be written: {'; '.join(reasons)}", fix=_FIX)
    return ARCHITECTURES[named]


def _not_carried(architecture: str, config: Mapping[str, Any]) -> Iterator[str]:
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        yield f"its rotary embedding is scaled ({rope['rope_type']}), which is not read back to be scored"
    if config.get("hidden_act") != "silu":
        yield f"hidden_act is {config.get('hidden_act')}, and llama.cpp computes silu"
    if config.get("use_sliding_window"):
        yield "it attends to a sliding window"
    if config.get("mlp_bias") or (config.get("attention_bias") and architecture != "qwen2"):
        yield "its layers have biases"
    if architecture == "qwen3" and config.get("head_dim") != _QWEN3_HEAD:
        yield f"head_dim is {config.get('head_dim')}, and only {_QWEN3_HEAD} is read back to be scored"


def head_size(config: Mapping[str, Any]) -> int:
    """Return the width of an attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def hyperparameters(architecture: str, config: Mapping[str, Any]) -> dict[str, int | float]:
    """Return a model's hyperparameters by their keys in GGUF; integers are written as uint32, others as float32."""
    own: dict[str, int | float] = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_size(config),
        "attention.value_length": head_size(config),
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": head_size(config),
        "rope.freq_base": float((config.get("rope_parameters") or config)["rope_theta"]),
        "vocab_size": config["vocab_size"],
    }
    return {f"{architecture}.{key}": value for key, value in own.items()}
