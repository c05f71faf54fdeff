"""How many bytes a rank needs at its peak, from a model's shape alone. Pure arithmetic; nothing is measured here.

Formula and sources: docs/memory.md. It is for FSDP1 as instructlab-training drives it: fp32 master weights, gradients
and AdamW moments, forward and backward in bf16 or fp32, and a loss that needs every logit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

_GPU_OVERHEAD = 1_500_000_000
"""CUDA context, NCCL buffers, allocator slack. Not calibrated."""
_CPU_OVERHEAD = 750_000_000
"""The interpreter with torch and transformers loaded; measured by benchmarks/memory.py."""
_LAYER_ACTIVATIONS = 34
"""Bytes per token and hidden unit of one layer in 16 bits (Korthikanti et al., arXiv:2205.05198, section 4)."""
_GPU_LOGITS, _CPU_LOGITS = 18, 16
"""Bytes per token and vocabulary entry: logits, their copy shifted by one, their fp32 copy, and gradients."""


class Sharding(Enum):
    """FSDP's strategies, by torch's names."""

    FULL_SHARD = "FULL_SHARD"
    SHARD_GRAD_OP = "SHARD_GRAD_OP"
    HYBRID_SHARD = "HYBRID_SHARD"
    NO_SHARD = "NO_SHARD"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a model's shape memory depends on.

    Attributes:
        num_parameters: Tied weights counted once.
        num_root: Those outside of the layers: embeddings, head, last norm.
    """

    num_parameters: int
    num_root: int
    num_layers: int
    hidden_size: int
    vocab_size: int

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


def shape_of(config: Mapping[str, Any], num_parameters: int | None) -> Shape | None:
    """The shape that a ``config.json`` tells; None where it is spelled in a way that is not known.

    Args:
        config: Parsed ``config.json`` of a causal language model.
        num_parameters: As counted in the weights' files.
    """
    text = config.get("text_config") or config
    names = ("hidden_size", "num_hidden_layers", "vocab_size")
    if num_parameters is None or not all(isinstance(text.get(name), int) for name in names):
        return None
    hidden, layers, vocab = (text[name] for name in names)
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
    return Shape(
        num_parameters=num_parameters,
        num_root=vocab * hidden * (1 if tied else 2) + hidden,
        num_layers=layers,
        hidden_size=hidden,
        vocab_size=vocab,
    )


def fixed_bytes(shape: Shape, sharding: Sharding, setup: Setup) -> int:
    """What a rank holds whatever the minibatch: weights, gradients, optimizer state, gathered units, the process."""
    n, unit, root, value = shape.num_parameters, shape.per_layer, shape.num_root, setup.value_bytes
    shards = {
        Sharding.FULL_SHARD: setup.ranks,
        Sharding.SHARD_GRAD_OP: setup.ranks,
        Sharding.HYBRID_SHARD: setup.ranks_per_node,
        Sharding.NO_SHARD: 1,
    }[sharding]
    # fp32 weights 4, gradients 4, AdamW's moments 8 (ZeRO, arXiv:1910.02054, section 3)
    state = (16 * n if setup.num_trained is None else 4 * n + 16 * setup.num_trained) // shards
    if setup.cpu_offload_params and setup.on_gpu:
        state = 0
    whole = sharding in (Sharding.SHARD_GRAD_OP, Sharding.NO_SHARD)
    # Of the units, one computes while the next one is fetched; unsharded fp32 weights are computed with as they are.
    gathered = 0 if shards == 1 and value == 4 else value * (n if whole else 2 * unit + root)
    gradients = value * max(unit, root)  # of the unit at work, before they are reduced
    return state + gathered + gradients + (_GPU_OVERHEAD if setup.on_gpu else _CPU_OVERHEAD)


def bytes_per_token(shape: Shape, setup: Setup) -> int:
    """What each token of a minibatch adds: activations that the backward pass needs, and logits."""
    scale = setup.value_bytes / 2
    layers = shape.num_layers if not setup.gradient_checkpointing else 1
    kept = 2 * shape.num_layers if setup.gradient_checkpointing else 0  # each layer's input, to recompute from
    activations = scale * shape.hidden_size * (kept + _LAYER_ACTIVATIONS * layers)
    return round(activations + (_GPU_LOGITS if setup.on_gpu else _CPU_LOGITS) * shape.vocab_size)


def peak_bytes(shape: Shape, sharding: Sharding, setup: Setup) -> int:
    """Largest memory of one rank."""
    return fixed_bytes(shape, sharding, setup) + bytes_per_token(shape, setup) * setup.max_tokens


def largest_budget(shape: Shape, sharding: Sharding, setup: Setup, available: int) -> int:
    """The most tokens in a minibatch that fit into `available` bytes per rank; 0 where none do."""
    return max(0, (available - fixed_bytes(shape, sharding, setup)) // bytes_per_token(shape, setup))


def model_bytes(shape: Shape) -> int:
    """A model as it is saved, in fp32."""
    return 4 * shape.num_parameters


def state_bytes(shape: Shape, setup: Setup) -> int:
    """A full state: fp32 weights and AdamW's moments of what is trained."""
    trained = shape.num_parameters if setup.num_trained is None else setup.num_trained
    return 4 * shape.num_parameters + 8 * trained
