"""How many bytes a rank needs at its peak, from a model's shape alone. Pure arithmetic; nothing is measured here.

Formula and sources: docs/memory.md. It is for FSDP1 as instructlab-training drives it with our loss: fp32 master
weights, gradients and AdamW moments, forward and backward in bf16 or fp32.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sft.adapters.instructlab.packed_rows import head_repeats
from sft.config.schema import GradientCheckpointing, LoraConfig, ShardingStrategy
from sft.planning.adapters import Kept, Quantized, kept_by
from sft.planning.model_shape import Shape, activations

GPU_OVERHEAD = 1_500_000_000
"""CUDA context, NCCL buffers, allocator slack. Not calibrated."""
_LOSS_CHUNK = 4_096
"""Loss tokens whose logits live at a time: `sft.adapters.instructlab.rank.chunked_head.CHUNK`."""
_CPU_OVERHEAD = 620_000_000
"""The interpreter with torch and transformers loaded; fitted to what benchmarks/memory.py measures."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a model is trained, as far as memory depends on it.

    Attributes:
        ranks: All of them.
        ranks_per_node: Those that `HYBRID_SHARD` shards over.
        token_budget: Of a minibatch on one rank, padding included; of a row that ranks share, of its part.
        context_parallel: Ranks that share a row.
        loss_share: Part of a minibatch's tokens that count for the loss, the only ones with logits.
        value_bytes: 2 in bf16, 4 in fp32.
        num_trained: Parameters of the adapters; None = every one is trained.
        num_frozen: Parameters that are not trained although there are no adapters.
        moment_bytes: Of the optimizer's state for each weight that is trained: AdamW's two moments are 8.
        adapter_dropout: Whether the adapters have dropout.
        num_whole: Parameters of modules that are trained whole beside adapters, of which the base's are there too.
        trains_head: Whether the head is one of them.
        adapters: What they keep for their backward pass; None = what those of every linear layer keep.
        quantized: What of the frozen weights is in 4 bits.
        on_gpu: Whether ranks compute on GPUs.
        fsdp_version: Of PyTorch's FSDP, 1 or 2.
        copies_states: Whether a rank keeps a copy of its part of the full state in host memory while it is written.
        keeps_best: Whether a rank keeps its part of the best step's weights in host memory, and each full state them.
    """

    ranks: int
    ranks_per_node: int
    token_budget: int
    value_bytes: int
    gradient_checkpointing: GradientCheckpointing
    loss_share: float = 1.0
    cpu_offload_params: bool = False
    num_trained: int | None = None
    num_frozen: int = 0
    moment_bytes: float = 8.0
    adapter_dropout: bool = False
    num_whole: int = 0
    trains_head: bool = False
    adapters: Kept | None = None
    quantized: Quantized = field(default_factory=Quantized)
    on_gpu: bool = False
    fsdp_version: int = 2
    copies_states: bool = False
    keeps_best: bool = False
    context_parallel: int = 1


class Moment(NamedTuple):
    """One at which memory may be at its peak.

    Attributes:
        fixed: Bytes, whatever the minibatch.
        per_token: Bytes for each token of a minibatch, padding included.
    """

    fixed: int
    per_token: float

    def bytes(self, num_tokens: int) -> int:
        """Return the bytes with a minibatch of so many tokens."""
        return self.fixed + int(self.per_token * num_tokens)

    def budget(self, available: int) -> float:
        """Return the tokens that fit."""
        left = available - self.fixed
        return 0 if left < 0 else left // self.per_token if self.per_token else float("inf")


def moments(shape: Shape, sharding: ShardingStrategy, setup: Setup) -> dict[str, Moment]:
    """Return when a rank may need most: as a pass begins, loss, backward pass of head, layer and embedding."""
    value, layer = setup.value_bytes, _activations(shape, setup)
    num_recomputed = _num_recomputed(shape, setup.gradient_checkpointing)
    kept = value * shape.hidden_size * num_recomputed + (shape.num_layers - num_recomputed) * layer
    trains_head = setup.num_trained is None or setup.trains_head
    chunked, at_loss, at_head, of_chunk, of_weight = _is_chunked(shape, setup), float(kept), float(kept), 0, 0
    if chunked:
        of_chunk = _LOSS_CHUNK * _logit_bytes(shape, setup)
        of_weight = 4 * shape.vocab_size * shape.hidden_size if trains_head else 0
        at_loss += setup.loss_share * 2 * value * shape.hidden_size  # what the head is given, and its gradient
        at_head += setup.loss_share * value * shape.hidden_size
    else:
        at_loss += setup.loss_share * _logit_bytes(shape, setup)
        at_head += setup.loss_share * value * shape.vocab_size
    made, made_at_layer = _adapted_weights(shape, setup, num_recomputed)
    # Every second layer is recomputed from the first on: of an even number, the last one keeps its own.
    recomputes_last = num_recomputed * 2 > shape.num_layers
    gradients = 2 * value * shape.ffn_width  # of the feed-forward part
    at_layer = kept + (layer if recomputes_last else 0) + gradients
    if not setup.on_gpu:
        # As they were loaded, and as they are gathered to be saved. malloc keeps what FSDP frees, so that sharding
        # hardly lowers the peak; measured by benchmarks/memory.py.
        copies = (1 if _shards(sharding, setup) == 1 else 2) * _weight_bytes(shape, setup) * shape.num_parameters
        fixed = _state_bytes(shape, ShardingStrategy.NO_SHARD, setup) + copies + _CPU_OVERHEAD
        fixed += copied_bytes(shape, sharding, setup) + made
        return {"loss": Moment(fixed + of_chunk + of_weight, at_loss), "layer": Moment(fixed + made_at_layer, at_layer)}
    fixed, gathered = _state_bytes(shape, sharding, setup) + GPU_OVERHEAD + made, _gathered(shape, sharding, setup)
    of_head = of_layer = 0  # gradients before they are reduced
    if trains_head:
        of_head = value * shape.vocab_size * shape.hidden_size
    if setup.num_trained is None:
        of_layer = value * shape.per_layer
    root = min(gathered, value * (shape.num_root + setup.num_whole))
    at_embedding = (3 if shape.tied else 4) * of_head + of_layer
    if of_head and value < 4 and _shards(sharding, setup) > 1:  # the root's gradient, and its copy in fp32 for the sum
        at_embedding = max(at_embedding, (value + 4) * shape.num_root)
    return {
        "gather": Moment(fixed + _at_gather(shape, sharding, setup), 0),
        "loss": Moment(fixed + gathered + of_chunk + of_weight, at_loss),
        "head": Moment(fixed + gathered + of_head + of_weight, at_head),
        "layer": Moment(fixed + gathered + of_head + of_layer + made_at_layer, at_layer),
        "embedding": Moment(fixed + root + at_embedding, 0),
    }


def peak_bytes(shape: Shape, sharding: ShardingStrategy, setup: Setup) -> int:
    """Return the largest memory of one rank."""
    return max(moment.bytes(setup.token_budget) for moment in moments(shape, sharding, setup).values())


def largest_budget(shape: Shape, sharding: ShardingStrategy, setup: Setup, available: int) -> int:
    """Return the most tokens in a minibatch that fit into `available` bytes per rank; 0 if none do."""

    def budget(num_tokens: int) -> int:  # as long as the loss is taken as it is with so many tokens
        of = moments(shape, sharding, replace(setup, token_budget=num_tokens))
        return int(min(min(moment.budget(available) for moment in of.values()), 2**62))

    if not setup.loss_share:
        return budget(1)
    most_whole = int(_LOSS_CHUNK / setup.loss_share)
    in_chunks = budget(most_whole + 1)
    return in_chunks if in_chunks > most_whole else min(budget(1), most_whole)


def model_bytes(shape: Shape, weight_bytes: int | None = None) -> int:
    """Return the size of a saved model.

    Args:
        shape: The model's.
        weight_bytes: Of a saved weight; None = as in the base model.
    """
    return (weight_bytes or shape.stored_bytes) * shape.num_parameters


def state_bytes(shape: Shape, setup: Setup) -> int:
    """Return the bytes of a full state: of each weight that is trained its fp32 value and the optimizer's state, and
    its value at the best step.
    """
    return int((4 + setup.moment_bytes + 4 * setup.keeps_best) * _num_trained(shape, setup))


def copied_bytes(shape: Shape, sharding: ShardingStrategy, setup: Setup) -> int:
    """Return the bytes of host memory in which a rank keeps its part of the full state that is being written, and of
    the best step's weights.
    """
    of_state = (4 + setup.moment_bytes) * setup.copies_states + 4 * setup.keeps_best
    return int(of_state * _num_trained(shape, setup)) // _shards(sharding, setup)


def _num_recomputed(shape: Shape, mode: GradientCheckpointing) -> int:
    """Return the layers of which only the input is kept (`sft.adapters.instructlab.rank.recomputation`)."""
    match mode:
        case GradientCheckpointing.none:
            return 0
        case GradientCheckpointing.selective:
            return (shape.num_layers + 1) // 2
        case _:
            return shape.num_layers


def _is_chunked(shape: Shape, setup: Setup) -> bool:
    """Return whether the loss is taken in chunks (`sft.adapters.instructlab.rank.chunked_head`)."""
    num_places = setup.loss_share * setup.token_budget
    return num_places > _LOSS_CHUNK and not (shape.capped or shape.family.scaled)


def _num_trained(shape: Shape, setup: Setup) -> int:
    return shape.num_parameters - setup.num_frozen if setup.num_trained is None else setup.num_trained


def _weight_bytes(shape: Shape, setup: Setup) -> int:
    """Return bytes of a weight that a rank holds: fp32; a frozen one as stored, unless FSDP1 computes in fp32."""
    frozen = setup.num_trained is not None and (setup.value_bytes == 2 or setup.fsdp_version == 2)
    return shape.stored_bytes if frozen else 4


def _shards(sharding: ShardingStrategy, setup: Setup) -> int:
    if sharding is ShardingStrategy.NO_SHARD:
        return 1
    return setup.ranks_per_node if sharding is ShardingStrategy.HYBRID_SHARD else setup.ranks


def _state_bytes(shape: Shape, sharding: ShardingStrategy, setup: Setup) -> int:
    """Return bytes of weights, and of what is trained gradients 4 and the optimizer's (ZeRO, arXiv:1910.02054)."""
    if setup.cpu_offload_params and setup.on_gpu:
        return setup.quantized.num_bytes
    own = 0 if setup.num_trained is None else 4 * setup.num_trained
    weights = own + _weight_bytes(shape, setup) * _num_whole(shape, setup)
    weights -= (4 - shape.stored_bytes) * setup.num_frozen
    state = int((4 + setup.moment_bytes) * _num_trained(shape, setup))
    return (weights + state) // _shards(sharding, setup) + setup.quantized.num_bytes


def _num_whole(shape: Shape, setup: Setup) -> int:
    """Return the parameters of the base that are not in 4 bits, which FSDP shards and gathers."""
    return shape.num_parameters - setup.quantized.num_weights


def _gathered(shape: Shape, sharding: ShardingStrategy, setup: Setup) -> int:
    """Return weights that a rank computes with besides its own: one unit while the next is fetched, and the root."""
    value, root = setup.value_bytes, shape.num_root + setup.num_whole
    unit = (_num_whole(shape, setup) - shape.num_root) // shape.num_layers
    if _shards(sharding, setup) == 1:
        has_no_copy = setup.fsdp_version == 1 and value == _weight_bytes(shape, setup)
        return 0 if has_no_copy else value * (unit + root)
    return value * (_num_whole(shape, setup) if sharding is ShardingStrategy.SHARD_GRAD_OP else 2 * unit + root)


def _at_gather(shape: Shape, sharding: ShardingStrategy, setup: Setup) -> int:
    """Return the weights of root and first layer as FSDP2 gathers them, before a pass has kept anything.

    They are there twice, as they come from the ranks and as they are laid out, until the next ones are gathered.
    """
    if setup.fsdp_version == 1 or _shards(sharding, setup) == 1:
        return 0
    unit = (_num_whole(shape, setup) - shape.num_root) // shape.num_layers
    return 2 * setup.value_bytes * (shape.num_root + setup.num_whole + unit)


def _activations(shape: Shape, setup: Setup) -> int:
    """Return bytes per token of a layer; an adapter keeps its input, or with dropout what is left of it, and which.

    Where ranks share a row, attention's output is there twice, for some heads and for all of them; and keys and values
    as often as heads are sent twice.
    """
    exchanged = 0
    if setup.context_parallel > 1:
        repeated = head_repeats(shape.num_key_heads, setup.context_parallel) - 1
        exchanged = setup.value_bytes * (shape.query_width + 2 * repeated * shape.key_width)
    if setup.num_trained is None:
        return activations(shape, setup.value_bytes) + exchanged
    adapters = _adapters(shape, setup)
    if setup.adapter_dropout:
        kept = (setup.value_bytes + 1) * adapters.inputs
    else:  # projections share theirs; experts have it counted already
        kept = 0 if shape.family.experts else setup.value_bytes * adapters.shared
    kept = (kept + 2 * setup.value_bytes * adapters.outputs) // shape.num_layers
    return activations(shape, setup.value_bytes, is_frozen=True) + kept + exchanged


def _adapters(shape: Shape, setup: Setup) -> Kept:
    """Return what the adapters keep; nothing where there are none."""
    if setup.num_trained is None:
        return Kept()
    return setup.adapters or kept_by(LoraConfig(rank=1), shape)


def _adapted_weights(shape: Shape, setup: Setup, num_recomputed: int) -> tuple[int, int]:
    """Return bytes of weights that adapters make in a pass: those kept after the forward pass, and those at a layer.

    Experts with their adapters are a tensor of their own, kept for the backward pass where a layer isn't recomputed;
    the layer that is at work has it, and its gradient. DoRA takes the norm of a sum of matrices of the layer's size.
    A matrix in 4 bits is widened while it computes; DoRA with dropout keeps what it was widened to.
    """
    adapters, value = _adapters(shape, setup), setup.value_bytes
    of_a_layer = value * adapters.expert_weights // shape.num_layers
    keeps_widened = setup.adapter_dropout and adapters.outputs > 0
    widened = value * setup.quantized.num_weights // shape.num_layers if keeps_widened else 0
    kept = (of_a_layer + widened) * (shape.num_layers - num_recomputed)
    at_layer = 2 * of_a_layer + widened + 3 * value * adapters.largest + value * setup.quantized.largest
    return kept, at_layer


def _logit_bytes(shape: Shape, setup: Setup) -> int:
    """Return bytes per token of logits: in fp32, over which their gradient is written, and again if they are bf16."""
    return (4 + 2 * (setup.value_bytes == 2) + setup.value_bytes * shape.capped) * shape.vocab_size
