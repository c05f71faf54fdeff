"""What `training.lora` trains of a model, from its shape alone: which matrices, how many parameters, what they keep.

Names are transformers' own; tests compare them with its models. Pure arithmetic; nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sft.adapter_choice import Adapter, Matrix, adapters_of, num_parameters, saved_whole
from sft.config.schema import BaseQuantization, LoraConfig
from sft.planning.model_shape import Shape

_FROM_ATTENTION, _FROM_FEED_FORWARD = (".o_proj", ".dense"), (".down_proj", ".dense_4h_to_h")


def matrices_of(shape: Shape) -> dict[str, Matrix]:
    """Return what can be adapted: linear layers but the head, and tensors of fused experts."""
    prefix = "model" if shape.family.gated else "gpt_neox"
    return {
        f"{prefix}.layers.{number}.{name}": matrix
        for number in range(shape.num_layers)
        for name, matrix in _of_a_layer(shape).items()
    }


def _of_a_layer(shape: Shape) -> dict[str, Matrix]:
    hidden, queries, keys, inner = shape.hidden_size, shape.query_width, shape.key_width, shape.expert_width
    if not shape.family.gated:
        return {
            "attention.query_key_value": Matrix(inputs=hidden, outputs=queries + 2 * keys),
            "attention.dense": Matrix(inputs=queries, outputs=hidden),
            "mlp.dense_h_to_4h": Matrix(inputs=hidden, outputs=inner),
            "mlp.dense_4h_to_h": Matrix(inputs=inner, outputs=hidden),
        }
    output = {"self_attn.o_proj": Matrix(inputs=queries, outputs=hidden)}
    if shape.family.fused:
        return output | {
            "self_attn.qkv_proj": Matrix(inputs=hidden, outputs=queries + 2 * keys),
            "mlp.gate_up_proj": Matrix(inputs=hidden, outputs=2 * inner),
            "mlp.down_proj": Matrix(inputs=inner, outputs=hidden),
        }
    attention = output | {
        "self_attn.q_proj": Matrix(inputs=hidden, outputs=queries),
        "self_attn.k_proj": Matrix(inputs=hidden, outputs=keys),
        "self_attn.v_proj": Matrix(inputs=hidden, outputs=keys),
    }
    if shape.family.experts:
        of = shape.num_experts
        return attention | {
            "mlp.experts.gate_up_proj": Matrix(inputs=hidden, outputs=2 * inner, experts=of),
            "mlp.experts.down_proj": Matrix(inputs=inner, outputs=hidden, experts=of),
        }
    return attention | {
        "mlp.gate_proj": Matrix(inputs=hidden, outputs=inner),
        "mlp.up_proj": Matrix(inputs=hidden, outputs=inner),
        "mlp.down_proj": Matrix(inputs=inner, outputs=hidden),
    }


def adapted_by(cfg: LoraConfig, shape: Shape) -> dict[str, Adapter]:
    """Return the adapters of a model by the names of what they adapt."""
    return adapters_of(plain(cfg), matrices_of(shape))


def num_adapter_parameters(cfg: LoraConfig, shape: Shape) -> int:
    """Return the parameters of the adapters alone."""
    return num_parameters(plain(cfg), matrices_of(shape)) if cfg.rank else 0


def num_active_parameters(cfg: LoraConfig, shape: Shape) -> int:
    """Return the parameters of the adapters that a token goes through: those of all layers, and of its experts."""
    matrices = matrices_of(shape)
    return sum(
        adapter.rank
        * (shape.num_active if matrices[name].experts else 1)
        * (matrices[name].inputs + matrices[name].outputs)
        for name, adapter in adapted_by(cfg, shape).items()
    )


def num_saved_whole(cfg: LoraConfig, shape: Shape, sizes: Mapping[str, int] | None) -> int:
    """Return the parameters of `modules_to_save`.

    Args:
        cfg: `training.lora`.
        shape: The model's.
        sizes: Of the model's tensors by name; None = not known, and only embeddings and head are counted.
    """
    if not cfg.rank or not cfg.modules_to_save:
        return 0
    if sizes is None:
        ends = 1 if shape.tied else 2
        known = sum(each.rpartition(".")[2] in {"embed_tokens", "embed_in", "lm_head"} for each in cfg.modules_to_save)
        return min(known, ends) * shape.vocab_size * shape.hidden_size
    modules = {name: name.rpartition(".")[0] for name in sizes}
    whole = saved_whole(plain(cfg), {*modules.values()})
    return sum(size for name, size in sizes.items() if modules[name] in whole)


def plain(cfg: LoraConfig) -> dict[str, Any]:
    """Return the settings as `sft.adapter_choice` takes them."""
    made: dict[str, Any] = msgspec.to_builtins(cfg)
    return made


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What adapters keep for their backward pass, in values per token, of all layers together.

    Attributes:
        inputs: Widths of the inputs of adapted layers, one by one: with dropout each keeps its own.
        shared: The same, those that layers share counted once, and without attention's output, which is kept anyway.
        outputs: Widths of the outputs of adapted layers with DoRA, which keeps two of each; else 0.
        expert_weights: Weights of adapted experts, made anew with their adapters in each pass (not a token's).
        largest: Weights of the largest matrix of which DoRA takes the norm, else 0 (not a token's).
    """

    inputs: int = 0
    shared: int = 0
    outputs: int = 0
    expert_weights: int = 0
    largest: int = 0


def kept_by(cfg: LoraConfig, shape: Shape) -> Kept:
    """Return what the adapters of a model keep."""
    matrices = matrices_of(shape)
    chosen = {name: matrices[name] for name in adapted_by(cfg, shape)}
    layers = {name: matrix for name, matrix in chosen.items() if not matrix.experts}
    shared = {name.rpartition(".")[0]: matrix.inputs for name, matrix in layers.items() if _reads_norm(name)}
    shared |= {name: matrix.inputs for name, matrix in layers.items() if name.endswith(_FROM_FEED_FORWARD)}
    return Kept(
        inputs=sum(matrix.inputs for matrix in layers.values()),
        shared=sum(shared.values()),
        outputs=sum(matrix.outputs for matrix in layers.values()) if cfg.use_dora else 0,
        expert_weights=sum(m.experts * m.inputs * m.outputs for m in chosen.values() if m.experts),
        largest=max((m.inputs * m.outputs for m in layers.values()), default=0) if cfg.use_dora else 0,
    )


def _reads_norm(name: str) -> bool:
    return not name.endswith((*_FROM_FEED_FORWARD, *_FROM_ATTENTION))


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What of the base is kept in 4 bits, whole on each rank.

    Attributes:
        num_matrices: Linear layers.
        num_weights: Their weights.
        num_bytes: Of weights and scales.
        largest: Weights of the largest one, widened while it computes.
    """

    num_matrices: int = 0
    num_weights: int = 0
    num_bytes: int = 0
    largest: int = 0


def quantized_by(cfg: LoraConfig, shape: Shape) -> Quantized:
    """Return what `training.lora.quantize` makes of a model (`sft.adapters.instructlab.rank.quantized`)."""
    if not cfg.rank or cfg.quantize is BaseQuantization.none:
        return Quantized()
    matrices = matrices_of(shape)
    whole = saved_whole(plain(cfg), matrices)
    sizes = [m.inputs * m.outputs for name, m in matrices.items() if not m.experts and name not in whole]
    return Quantized(
        num_matrices=len(sizes),
        num_weights=sum(sizes),
        num_bytes=sum(nf4_bytes(size, double_quant=cfg.quantize is not BaseQuantization.nf4) for size in sizes),
        largest=max(sizes, default=0),
    )


def nf4_bytes(num_weights: int, *, double_quant: bool) -> int:
    """Return the bytes of a matrix in 4 bits (arXiv:2305.14314): a scale in fp32 for each 64 weights.

    With `double_quant` a scale has 8 bits, and an fp32 one of its own for each 256; besides there are their mean and
    the 256 values that 8 bits mean.
    """
    num_scales = -(-num_weights // 64)
    packed = -(-num_weights // 2)
    if not double_quant:
        return packed + 4 * num_scales
    return packed + num_scales + 4 * -(-num_scales // 256) + 4 + 4 * 256
