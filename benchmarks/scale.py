"""The tables of docs/scale.md: memory, network and arithmetic of 8, 64 and 512 GPUs, on paper.

    python benchmarks/scale.py

Nothing is measured. Memory is the estimate of `sft plan`. What goes over the network is counted from what FSDP sends
(arXiv:2304.11277, section 3; arXiv:1910.02054, section 7), arithmetic as in arXiv:2204.02311, appendix B.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sft.adapters.instructlab.packed_rows import head_repeats
from sft.config.schema import GradientCheckpointing, LoraConfig, ShardingStrategy
from sft.planning.adapters import num_adapter_parameters
from sft.planning.memory import Setup, largest_budget, peak_bytes
from sft.planning.model_shape import Shape, shape_of

PEAK = 989e12
"""FLOP/s of an H100 SXM in dense bf16 (NVIDIA, "H100 Tensor Core GPU", data sheet)."""
EFFICIENCY = 0.4
"""Share of `PEAK` that the arithmetic reaches while it runs: what `PUBLISHED` says of 7B and more."""
NVLINK = 450e9
"""Bytes a GPU sends a second to those of its node (data sheet: 900 GB/s both ways)."""
RAILS, ETHERNET = 8 * 50e9, 12.5e9
"""Bytes a node sends a second: eight adapters of 400 Gbit/s, as in a DGX H100, or one of 100 Gbit/s."""
PER_NODE = 8
GPU_BYTES = 79.6 * 2**30
TOKENS = 8192
"""Of a minibatch on one rank."""
RANK = 16
"""Of LoRA's adapters."""

Config = dict[str, Any]


def config(kind: str, sizes: tuple[int, int, int, int, int, int], **more: Any) -> Config:
    """Return a ``config.json``: hidden size, layers, heads, key heads, feed-forward width, vocabulary."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    return {"model_type": kind, **dict(zip((*names, "vocab_size"), sizes, strict=True)), "dtype": "bfloat16", **more}


MODELS = {
    "7B": config("qwen2", (3584, 28, 28, 4, 18944, 152064), tie_word_embeddings=False),
    "70B": config("llama", (8192, 80, 64, 8, 28672, 128256), tie_word_embeddings=False),
}
"""Shapes of Qwen2.5-7B and Llama-3.1-70B."""


@dataclass(frozen=True)
class Published:
    """A figure that somebody has published, on H100s.

    Attributes:
        row_tokens: Of a row.
        tokens_per_second: On one GPU.
        gib: Its peak memory; None = not told.
        trains_all: Or adapters alone.
    """

    who: str
    model: str
    config: Config
    row_tokens: int
    tokens_per_second: float
    gib: float | None = None
    trains_all: bool = True


_QWEN3_SMALL = config("qwen3", (1024, 28, 16, 8, 3072, 151936), head_dim=128, tie_word_embeddings=True)
_QWEN3_4B = config("qwen3", (2560, 36, 32, 8, 9728, 151936), head_dim=128, tie_word_embeddings=True)
_LLAMA_8B = config("llama", (4096, 32, 32, 8, 14336, 128256), tie_word_embeddings=False)
PUBLISHED = [
    Published("torchtitan, 8 GPUs", "Llama-3.1-8B", _LLAMA_8B, 8192, 5762),
    Published("torchtitan, 8 GPUs, compiled", "Llama-3.1-8B", _LLAMA_8B, 8192, 6667),
    Published("Automodel, LoRA", "Qwen2.5-7B", MODELS["7B"], 4096, 14110, trains_all=False),
    Published("Automodel, LoRA", "Llama-3-8B", _LLAMA_8B, 4096, 12473, trains_all=False),
    Published("prime-rl, 8 GPUs", "Qwen3-4B", _QWEN3_4B, 16384, 49717 / 8),
    Published("prime-rl", "Qwen3-0.6B", _QWEN3_SMALL, 8192, 26005, gib=31.7),
    Published("prime-rl", "Qwen3-0.6B", _QWEN3_SMALL, 16384, 25486, gib=52.8),
]


def shape(of: Config) -> Shape:
    """Return a model's shape."""
    known = shape_of(of)
    assert known is not None
    return known


def flops_per_token(of: Shape, row_tokens: int, *, trains_all: bool = True) -> float:
    """Return the arithmetic of a forward and a backward pass: 6 a weight and token, 4 if only adapters are trained.

    Attention's matrices, of which a causal one has half, are 12·L·Q·s/2. Recomputing is not counted.
    """
    weights = of.num_parameters - of.vocab_size * of.hidden_size * (not of.tied)  # an embedding is looked up
    return (6 if trains_all else 4) * weights + 6 * of.num_layers * of.query_width * row_tokens


@dataclass(frozen=True)
class Traffic:
    """Bytes of one minibatch: what a GPU sends to its node's others, and what a node sends to other nodes."""

    per_gpu: float
    per_node: float

    def seconds(self, node_bandwidth: float) -> float:
        """Return the time of the slower of the two, which overlap."""
        return max(self.per_gpu / NVLINK, self.per_node / node_bandwidth)


def traffic(of: Shape, sharding: ShardingStrategy, gpus: int, *, num_trained: int | None = None) -> Traffic:
    """Return what a minibatch sends: weights in bf16, sums of what is trained in fp32, after each minibatch.

    FULL_SHARD and HYBRID_SHARD gather a layer for each pass, embeddings and head once. A ring of n sends (n - 1)/n of
    the whole from each member for a gather or a reduce-scatter, twice that for an all-reduce; of n nodes, (n - 1)/n
    leaves a node, over all its adapters.
    """
    nodes = gpus // PER_NODE
    once, twice = 2 * of.num_parameters, 2 * (2 * of.num_parameters - of.num_root)
    sums = 4 * (of.num_parameters if num_trained is None else num_trained)
    ring, across = (gpus - 1) / gpus, (nodes - 1) / nodes
    match sharding:
        case ShardingStrategy.FULL_SHARD:
            return Traffic((twice + sums) * ring, (twice + sums) * across)
        case ShardingStrategy.SHARD_GRAD_OP:
            return Traffic((once + sums) * ring, (once + sums) * across)
        case ShardingStrategy.HYBRID_SHARD:
            return Traffic((twice + sums) * (PER_NODE - 1) / PER_NODE, 2 * sums * across)
        case ShardingStrategy.NO_SHARD:
            return Traffic(2 * sums * ring, 2 * sums * across)


def compute_seconds(of: Shape, tokens: int, *, trains_all: bool = True) -> float:
    """Return the time of a minibatch's arithmetic, every layer's forward pass made twice."""
    flops = flops_per_token(of, tokens, trains_all=trains_all) + flops_per_token(of, tokens) / 3
    return flops * tokens / (PEAK * EFFICIENCY)


def setup(gpus: int, tokens: int, *, recomputes: bool = True, num_trained: int | None = None) -> Setup:
    """Return how a rank of so many GPUs trains."""
    return Setup(
        ranks=gpus,
        ranks_per_node=PER_NODE,
        token_budget=tokens,
        value_bytes=2,
        gradient_checkpointing=GradientCheckpointing.full if recomputes else GradientCheckpointing.none,
        loss_share=0.5,
        num_trained=num_trained,
        on_gpu=True,
    )


def scaling_rows(model: Config) -> Iterator[list[str]]:
    """Yield a row per number of GPUs and strategy: memory, bytes, and times of a minibatch."""
    of = shape(model)
    for gpus in (8, 64, 512):
        for num_trained in (None, num_adapter_parameters(LoraConfig(rank=RANK), of)):
            for sharding in ShardingStrategy:
                if sharding is not ShardingStrategy.HYBRID_SHARD or gpus > PER_NODE:
                    yield [
                        str(gpus),
                        sharding.name + ", LoRA" * bool(num_trained),
                        *_row(of, sharding, gpus, num_trained),
                    ]


def _row(of: Shape, sharding: ShardingStrategy, gpus: int, num_trained: int | None) -> list[str]:
    peak = peak_bytes(of, sharding, setup(gpus, TOKENS, num_trained=num_trained))
    memory = f"{peak / 2**30:.0f} GiB"
    if peak > GPU_BYTES:
        return [memory, "does not fit", "", "", "", ""]
    sent = traffic(of, sharding, gpus, num_trained=num_trained)
    compute = compute_seconds(of, TOKENS, trains_all=num_trained is None)
    shares = [f"{sent.seconds(bandwidth) / compute:.0%}" for bandwidth in (RAILS, ETHERNET)]
    return [memory, *(f"{each / 1e9:.3g} GB" for each in (sent.per_gpu, sent.per_node)), f"{compute:.2g} s", *shares]


def exchanged(of: Shape, tokens: int, ranks: int, *, value_bytes: int = 2, recomputes: bool = True) -> float:
    """Return the bytes that each of the ranks that share a row sends around attention in a minibatch.

    Queries, keys, values and attention's output go to the others once forward, once backward, and once more where
    layers are recomputed (arXiv:2309.14509, section 3); keys and values as often as `head_repeats` says.

    Args:
        of: The model's shape.
        tokens: Of a rank's part of the row.
        ranks: That share it.
        value_bytes: Of a value.
        recomputes: Whether every layer is recomputed.
    """
    width = 2 * of.query_width + 2 * head_repeats(of.num_key_heads, ranks) * of.key_width
    return (3 if recomputes else 2) * of.num_layers * value_bytes * tokens * width * (ranks - 1) / ranks


def shared_rows() -> Iterator[list[str]]:
    """Yield a row per model and number of ranks that share a row, on 64 GPUs: the longest row, and what they send."""
    for name, model in MODELS.items():
        of = shape(model)
        for ranks in (1, 2, 4, 8):
            if of.num_heads % ranks == 0:
                how = replace(setup(64, TOKENS), context_parallel=ranks)
                row = ranks * largest_budget(of, ShardingStrategy.FULL_SHARD, how, int(GPU_BYTES))
                sent, compute = exchanged(of, row // ranks, ranks), compute_seconds(of, row) / ranks
                shares = [f"{sent / bandwidth / compute:.1%}" for bandwidth in (NVLINK, RAILS / PER_NODE)]
                yield [name, str(ranks), f"{row // 1000:,},000", f"{sent / 1e9:.3g} GB", f"{compute:.3g} s", *shares]


def break_even(sharding: ShardingStrategy, gpus: int, node_bandwidth: float) -> float:
    """Return the tokens of a minibatch at which the network takes as long as the arithmetic, for 7B.

    Bytes and arithmetic both grow with the model, so that it is much the same for others.
    """
    of = shape(MODELS["7B"])
    return traffic(of, sharding, gpus).seconds(node_bandwidth) / (compute_seconds(of, TOKENS) / TOKENS)


def break_even_rows() -> Iterator[list[str]]:
    """Yield a row per strategy: the least tokens of a minibatch that hide the network."""
    for sharding in ShardingStrategy:
        one, many = break_even(sharding, 8, RAILS), [break_even(sharding, 512, each) for each in (RAILS, ETHERNET)]
        yield [sharding.name, *(f"{tokens:,.0f}" for tokens in (one, *many))]


def batch_rows() -> Iterator[list[str]]:
    """Yield a row per batch and length of a sample: the tokens that a GPU gets of a step."""
    for samples in (128, 512, 2048):
        for length in (200, 1000, 4000):
            shares = [samples * length / gpus for gpus in (8, 64, 512)]
            yield [str(samples), f"{length:,}", *(f"{share:,.0f}" for share in shares)]


def published_rows() -> Iterator[list[str]]:
    """Yield a row per published figure: the share of the peak that it means, and our estimate of its memory."""
    for each in PUBLISHED:
        of = shape(each.config)
        achieved = each.tokens_per_second * flops_per_token(of, each.row_tokens, trains_all=each.trains_all)
        ours = ""
        if each.gib:
            peaks = [
                peak_bytes(of, ShardingStrategy.NO_SHARD, setup(1, each.row_tokens, recomputes=recomputes))
                for recomputes in (True, False)
            ]
            ours = f"{peaks[0] / 2**30:.1f} GiB; {peaks[1] / 2**30:.1f} GiB if nothing is recomputed"
        row = [each.who, each.model, f"{each.row_tokens:,}", f"{each.tokens_per_second:,.0f}", f"{achieved / PEAK:.0%}"]
        yield [*row, f"{each.gib} GiB" if each.gib else "", ours]


def table(header: str, rows: Iterable[list[str]]) -> str:
    """Return a Markdown table."""
    names = header.split(", ")
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables() -> dict[str, str]:
    """Return every table of docs/scale.md."""
    scaling = "GPUs, strategy, memory, a GPU sends, a node sends, arithmetic, network: 8 x 400 Gbit/s, 100 Gbit/s"
    return {
        **{name: table(scaling, scaling_rows(model)) for name, model in MODELS.items()},
        "break even": table("strategy, one node, 64 nodes of 8 x 400 Gbit/s, of 100 Gbit/s", break_even_rows()),
        "shared rows": table(
            "model, ranks to a row, longest row in tokens, a GPU sends, arithmetic, network: one node, 400 Gbit/s",
            shared_rows(),
        ),
        "batch": table("samples, tokens of a sample, 8 GPUs, 64, 512", batch_rows()),
        "published": table(
            "who, model, tokens of a row, tokens/s of a GPU, of its peak, memory, our estimate", published_rows()
        ),
    }


def main() -> None:
    """Print the tables."""
    for name, text in tables().items():
        print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    main()
