"""How many bytes a rank needs at its peak, from a model's shape alone. Pure arithmetic; nothing is measured here.

Formula and sources: docs/memory.md. It is for FSDP1 as instructlab-training drives it: fp32 master weights, gradients
and AdamW moments, forward and backward in bf16 or fp32, and logits for every token, the most that there can be: only
loss tokens have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

_GPU_OVERHEAD = 1_500_000_000
"""CUDA context, NCCL buffers, allocator slack. Not calibrated."""
_CPU_OVERHEAD = 550_000_000
"""The interpreter with torch and transformers loaded; fitted to what benchmarks/memory.py measures."""

_CPU_COPIES = 8
"""Bytes per parameter: the model as it is loaded and as it is gathered, in fp32. malloc keeps what FSDP frees, so that
on a CPU sharding hardly lowers the peak; measured by benchmarks/memory.py."""


class Sharding(Enum):
    """FSDP's strategies, by torch's names."""

    FULL_SHARD = "FULL_SHARD"
    SHARD_GRAD_OP = "SHARD_GRAD_OP"
    HYBRID_SHARD = "HYBRID_SHARD"
    NO_SHARD = "NO_SHARD"


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the architectures of one ``model_type`` differ from Llama's.

    Attributes:
        num_norms: Norms in a layer.
        norm_bias: Whether a norm has a bias.
        norms_in_fp32: Whether a norm multiplies in fp32 before it returns to the precision of its input.
        head_norms: Whether queries and keys are normalised, one head's width each.
        qkv_bias: Whether queries, keys and values have a bias; None = ``attention_bias`` says it, of the output too.
        gated: Whether the feed-forward part has a gate (three matrices) or not (two, with biases).
        tied: Head and embedding are one matrix, unless ``tie_word_embeddings`` says otherwise.
        head_dim: Where the config doesn't say it; 0 = ``hidden_size / num_attention_heads``.
        experts: Names of the number of experts and of the width of one; None = one feed-forward part.
    """

    num_norms: int = 2
    norm_bias: bool = False
    norms_in_fp32: bool = False
    head_norms: bool = False
    qkv_bias: bool | None = None
    gated: bool = True
    tied: bool = False
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
    "gemma2": Family(tied=True, norms_in_fp32=True, head_dim=256, num_norms=4),
    "gemma3_text": Family(tied=True, norms_in_fp32=True, head_dim=256, num_norms=4, head_norms=True),
    "phi3": Family(qkv_bias=False),
    "granite": Family(),
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
        ffn_width: Feed-forward features that a token goes through, of all `num_active` experts.
        num_active: Experts that a token is sent to; 1 where there are none.
    """

    family: Family
    num_parameters: int
    num_root: int
    num_layers: int
    hidden_size: int
    vocab_size: int
    query_width: int
    key_width: int
    ffn_width: int
    num_active: int

    @property
    def per_layer(self) -> int:
        """Parameters of one layer, FSDP's unit."""
        return (self.num_parameters - self.num_root) // self.num_layers


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a model is trained, as far as memory depends on it.

    Attributes:
        ranks: All of them.
        ranks_per_node: Those that `HYBRID_SHARD` shards over.
        max_tokens: Of a minibatch on one rank, padding included.
        value_bytes: 2 in bf16, 4 in fp32.
        num_trained: Parameters of the adapters; None = every one is trained.
        on_gpu: Whether ranks compute on GPUs.
    """

    ranks: int
    ranks_per_node: int
    max_tokens: int
    value_bytes: int
    gradient_checkpointing: bool
    cpu_offload_params: bool = False
    num_trained: int | None = None
    on_gpu: bool = False


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """The shape that a ``config.json`` tells; None where its architecture is not in `FAMILIES`.

    Args:
        config: Parsed ``config.json`` of a causal language model.
    """
    family = FAMILIES.get(config["model_type"]) if "model_type" in config else None
    if family is None or config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        return None
    hidden, layers, vocab = (config[key] for key in ("hidden_size", "num_hidden_layers", "vocab_size"))
    heads, inner = config["num_attention_heads"], config["intermediate_size"]
    head_dim = config.get("head_dim") or family.head_dim or hidden // heads
    queries, keys = head_dim * heads, head_dim * (config.get("num_key_value_heads") or heads)

    bias = family.qkv_bias
    with_bias = config.get("attention_bias", not family.gated) if bias is None else bias
    attention = hidden * (2 * queries + 2 * keys) + (2 * head_dim if family.head_norms else 0)
    attention += with_bias * (queries + 2 * keys + (hidden if bias is None else 0))
    active, ffn = 1, hidden * inner * (3 if family.gated else 2)
    if family.experts:
        numbers, width = family.experts
        num_experts = next(config[name] for name in numbers if name in config)
        inner, active = config[width], config["num_experts_per_tok"]
        ffn = num_experts * 3 * hidden * inner + num_experts * hidden  # and the router
    elif config.get("mlp_bias") or not family.gated:
        ffn += hidden + inner * (2 if family.gated else 1)
    norm = hidden * (2 if family.norm_bias else 1)
    root = vocab * hidden * (1 if config.get("tie_word_embeddings", family.tied) else 2) + norm
    return Shape(
        family=family,
        num_parameters=root + layers * (attention + ffn + family.num_norms * norm),
        num_root=root,
        num_layers=layers,
        hidden_size=hidden,
        vocab_size=vocab,
        query_width=queries,
        key_width=keys,
        ffn_width=inner * active,
        num_active=active,
    )


def num_adapter_parameters(shape: Shape, rank: int) -> int:
    """Parameters of LoRA (arXiv:2106.09685) on every projection: `rank` rows and columns each."""
    widths = 2 * (shape.query_width + shape.key_width) + (3 if shape.family.gated else 2) * shape.ffn_width
    num_projections = 7 if shape.family.gated else 6
    return rank * shape.num_layers * (widths + num_projections * shape.hidden_size)


def activations(shape: Shape, value_bytes: int) -> int:
    """Bytes per token that autograd keeps of one layer until its backward pass; no attention matrix (sdpa, flash).

    Counted as in arXiv:2205.05198, section 4, for the layers of `FAMILIES`; tests compare it with what autograd saves.
    """
    family, hidden = shape.family, shape.hidden_size
    attention = shape.query_width + shape.key_width
    normalised = family.num_norms * hidden + (attention if family.head_norms else 0)
    # RMSNorm keeps its input in fp32 and what it multiplies with its weight; LayerNorm its input alone.
    of_norm = value_bytes if family.norm_bias else 8 if family.norms_in_fp32 else 4 + value_bytes
    matrices = 2 * attention + 2 * hidden + (4 if family.gated else 2) * shape.ffn_width
    if family.experts:
        matrices += 2 * hidden * shape.num_active
    return normalised * of_norm + value_bytes * matrices


def bytes_per_token(shape: Shape, setup: Setup) -> int:
    """What each token of a minibatch adds at the worst moment of forward and backward.

    With gradient checkpointing that is either the loss (logits in fp32, their log-softmax and two gradients) or the
    recomputed layer; without, the loss comes on top of every layer's activations.
    """
    layer = activations(shape, setup.value_bytes)
    logits = (18 if setup.value_bytes == 2 else 16) * shape.vocab_size
    if not setup.gradient_checkpointing:
        return shape.num_layers * layer + logits
    inputs = setup.value_bytes * shape.hidden_size * shape.num_layers
    return inputs + max(logits, layer + 4 * shape.vocab_size)


def fixed_bytes(shape: Shape, sharding: Sharding, setup: Setup) -> int:
    """What a rank holds in forward and backward whatever the minibatch: states, gathered units, the process."""
    unit, root, value = shape.per_layer, shape.num_root, setup.value_bytes
    if not setup.on_gpu:
        return _state_bytes(shape, Sharding.NO_SHARD, setup) + _CPU_COPIES * shape.num_parameters + _CPU_OVERHEAD
    gathered = value * (2 * unit + root)  # one unit computes while the next one is fetched
    if sharding is Sharding.SHARD_GRAD_OP:
        gathered = value * shape.num_parameters
    if _shards(sharding, setup) == 1 and value == 4:
        gathered = 0  # computed with as they are
    gradients = value * (unit + root) if setup.num_trained is None else 0  # before they are reduced
    return _state_bytes(shape, sharding, setup) + gathered + gradients + _GPU_OVERHEAD


def peak_bytes(shape: Shape, sharding: Sharding, setup: Setup) -> int:
    """Largest memory of one rank: in forward and backward, or in the optimizer's step."""
    at_work = fixed_bytes(shape, sharding, setup) + bytes_per_token(shape, setup) * setup.max_tokens
    return max(at_work, _step_bytes(shape, sharding, setup)) if setup.on_gpu else at_work


def largest_budget(shape: Shape, sharding: Sharding, setup: Setup, available: int) -> int:
    """The most tokens in a minibatch that fit into `available` bytes per rank; 0 where none do."""
    if setup.on_gpu and _step_bytes(shape, sharding, setup) > available:
        return 0
    return max(0, (available - fixed_bytes(shape, sharding, setup)) // bytes_per_token(shape, setup))


def model_bytes(shape: Shape) -> int:
    """A model as it is saved, in fp32."""
    return 4 * shape.num_parameters


def state_bytes(shape: Shape, setup: Setup) -> int:
    """A full state: fp32 weights and AdamW's moments of what is trained."""
    return 4 * shape.num_parameters + 8 * _num_trained(shape, setup)


def _num_trained(shape: Shape, setup: Setup) -> int:
    return shape.num_parameters if setup.num_trained is None else setup.num_trained


def _shards(sharding: Sharding, setup: Setup) -> int:
    if sharding is Sharding.NO_SHARD:
        return 1
    return setup.ranks_per_node if sharding is Sharding.HYBRID_SHARD else setup.ranks


def _state_bytes(shape: Shape, sharding: Sharding, setup: Setup) -> int:
    """fp32 weights 4, and of what is trained gradients 4 and moments 8 (ZeRO, arXiv:1910.02054, section 3)."""
    if setup.cpu_offload_params and setup.on_gpu:
        return 0
    return (4 * shape.num_parameters + 12 * _num_trained(shape, setup)) // _shards(sharding, setup)


def _step_bytes(shape: Shape, sharding: Sharding, setup: Setup) -> int:
    """AdamW's step: its states, and the roots of the second moments that it computes with."""
    roots = 0 if setup.cpu_offload_params else 4 * _num_trained(shape, setup) // _shards(sharding, setup)
    return _state_bytes(shape, sharding, setup) + roots + _GPU_OVERHEAD
