"""A model's shape, as far as memory depends on it, from its ``config.json``: parameters, widths, activations.

Pure arithmetic; nothing is loaded. Formulas and sources: docs/memory.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the architectures of one ``model_type`` differ from Llama's.

    Attributes:
        num_norms: Norms in a layer.
        norm_bias: Whether a norm has a bias.
        norms_in_fp32: Whether a norm multiplies in fp32 before it returns to the precision of its input.
        head_norms: Whether queries and keys are normalised, one head's width each.
        qkv_bias: Whether queries, keys and values have a bias; None = ``attention_bias`` says it, of the output too.
        fused: Whether queries, keys and values are one matrix, and the feed-forward part's first two another.
        gated: Whether the feed-forward part has a gate (three matrices) or not (two, with biases).
        tied: Head and embedding are one matrix, unless ``tie_word_embeddings`` says otherwise.
        scaled: Logits are divided by a setting.
        capped: Logits go through a tanh, unless ``final_logit_softcapping`` says otherwise.
        head_dim: Where the config doesn't say it; 0 = ``hidden_size / num_attention_heads``.
        experts: Names of the number of experts and of the width of one; None = one feed-forward part.
    """

    num_norms: int = 2
    norm_bias: bool = False
    norms_in_fp32: bool = False
    head_norms: bool = False
    qkv_bias: bool | None = None
    fused: bool = False
    gated: bool = True
    tied: bool = False
    capped: bool = False
    scaled: bool = False
    head_dim: int = 0
    experts: tuple[tuple[str, ...], str] | None = None


FAMILIES = {
    "llama": Family(),
    "mistral": Family(qkv_bias=False),
    "mixtral": Family(qkv_bias=False, experts=(("num_local_experts",), "intermediate_size")),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(head_norms=True, head_dim=128),
    "qwen3_moe": Family(head_norms=True, experts=(("num_experts", "num_local_experts"), "moe_intermediate_size")),
    "gemma": Family(tied=True, norms_in_fp32=True, head_dim=256),
    "gemma2": Family(tied=True, capped=True, norms_in_fp32=True, head_dim=256, num_norms=4),
    "gemma3_text": Family(tied=True, norms_in_fp32=True, head_dim=256, num_norms=4, head_norms=True),
    "phi3": Family(qkv_bias=False, fused=True),
    "granite": Family(scaled=True),
    "smollm3": Family(tied=True),
    "gpt_neox": Family(gated=False, norm_bias=True),
}
"""The architectures whose parameters are counted exactly; tests/unit/test_memory.py compares with transformers."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a model's shape memory depends on; widths are numbers of features.

    Attributes:
        num_parameters: Tied weights counted once, every expert.
        num_root: Those outside of the layers: embeddings, head, last norm.
        query_width: Of all query heads.
        key_width: Of all key heads; values have the same.
        num_heads: Heads of queries.
        num_key_heads: Heads of keys, as many as of values.
        ffn_width: Feed-forward features that a token goes through, of all `num_active` experts.
        num_active: Experts that a token is sent to; 1 where there are none.
        num_experts: All of a layer; 1 where there are none.
        tied: Head and embedding are one matrix.
        capped: Logits go through a tanh.
        stored_bytes: Of a weight in the checkpoint.
    """

    family: Family
    num_parameters: int
    num_root: int
    num_layers: int
    hidden_size: int
    vocab_size: int
    query_width: int
    key_width: int
    num_heads: int
    num_key_heads: int
    ffn_width: int
    num_active: int
    num_experts: int
    tied: bool
    capped: bool
    stored_bytes: int

    @property
    def expert_width(self) -> int:
        """Feed-forward features of one expert, or of the layer where there are none."""
        return self.ffn_width // self.num_active

    @property
    def per_layer(self) -> int:
        """Parameters of one layer, FSDP's unit."""
        return (self.num_parameters - self.num_root) // self.num_layers


_SIZES = ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "intermediate_size")
_OPTIONAL_SIZES = ("head_dim", "num_key_value_heads")
_LARGEST_SIZE = 1 << 31


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """Return the shape that a ``config.json`` tells; None if a size is missing, or its family is not in `FAMILIES`.

    Args:
        config: Parsed ``config.json`` of a causal language model.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        return None
    if not all(_is_size(config.get(name)) for name in _SIZES):
        return None
    if not all(config.get(name) is None or _is_size(config[name]) for name in _OPTIONAL_SIZES):
        return None
    hidden, layers, vocab = (config[key] for key in ("hidden_size", "num_hidden_layers", "vocab_size"))
    heads, inner = config["num_attention_heads"], config["intermediate_size"]
    head_dim = config.get("head_dim") or family.head_dim or hidden // heads
    queries, keys = head_dim * heads, head_dim * (config.get("num_key_value_heads") or heads)

    bias = family.qkv_bias
    with_bias = config.get("attention_bias", not family.gated) if bias is None else bias
    attention = hidden * (2 * queries + 2 * keys) + (2 * head_dim if family.head_norms else 0)
    attention += bool(with_bias) * (queries + 2 * keys + (hidden if bias is None else 0))
    num_experts = active = 1
    ffn = hidden * inner * (3 if family.gated else 2)
    if family.experts:
        numbers, width = family.experts
        num_experts = next((config[name] for name in numbers if name in config), 0)
        inner, active = config.get(width, 0), config.get("num_experts_per_tok", 0)
        if not (_is_size(num_experts) and _is_size(inner) and _is_size(active)):
            return None
        ffn = num_experts * 3 * hidden * inner + num_experts * hidden  # and the router
    elif config.get("mlp_bias") or not family.gated:
        ffn += hidden + inner * (2 if family.gated else 1)
    norm = hidden * (2 if family.norm_bias else 1)
    tied = bool(config.get("tie_word_embeddings", family.tied))
    root = vocab * hidden * (1 if tied else 2) + norm
    stored = str(config.get("dtype") or config.get("torch_dtype"))
    return Shape(
        family=family,
        num_parameters=root + layers * (attention + ffn + family.num_norms * norm),
        num_root=root,
        num_layers=layers,
        hidden_size=hidden,
        vocab_size=vocab,
        query_width=queries,
        key_width=keys,
        num_heads=heads,
        num_key_heads=config.get("num_key_value_heads") or heads,
        ffn_width=inner * active,
        num_active=active,
        num_experts=num_experts,
        tied=tied,
        capped=bool(config.get("final_logit_softcapping", family.capped)),
        stored_bytes=2 if stored in {"bfloat16", "float16"} else 4,
    )


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_SIZE


def activations(shape: Shape, value_bytes: int, *, is_frozen: bool = False) -> int:
    """Return bytes per token that autograd keeps of a layer until its backward pass; no attention matrix (sdpa, flash).

    Counted as in arXiv:2205.05198, section 4, for the layers of `FAMILIES`; tests compare it with what autograd saves.

    Args:
        shape: The model's.
        value_bytes: 2 in bf16, 4 in fp32.
        is_frozen: Whether the layer's own weights are not trained: what only their gradients need is not kept. Of
            experts, whose adapters differ, that is not counted.
    """
    family, hidden = shape.family, shape.hidden_size
    attention = shape.query_width + shape.key_width
    normalised = family.num_norms * hidden + (attention if family.head_norms else 0)
    # RMSNorm keeps its input in fp32 and what it multiplies with its weight; LayerNorm its input alone.
    of_norm = value_bytes if family.norm_bias else 8 if family.norms_in_fp32 else 4 + value_bytes
    matrices = 2 * attention + 2 * hidden + (4 if family.gated else 2) * shape.ffn_width
    if family.experts:
        matrices += 2 * hidden * shape.num_active
    elif is_frozen:
        matrices -= 2 * hidden + shape.ffn_width  # the input of matrix products; attention's output is its own, too
        of_norm = value_bytes if family.norm_bias else 4
    return normalised * of_norm + value_bytes * matrices
