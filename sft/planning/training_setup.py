"""Say what the memory estimate takes of a training: sizes and settings of one rank. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sft.artifacts import TokenizedArtifact
from sft.config.schema import Precision, RunConfig
from sft.planning.memory import Setup
from sft.planning.model_shape import Shape, num_adapter_parameters

if TYPE_CHECKING:
    from sft.planning.resources import Resources


def setup_of(cfg: RunConfig, resources: Resources, shape: Shape, tokens: TokenizedArtifact | None) -> Setup:
    """Return how a rank trains, as far as memory depends on it.

    Args:
        cfg: A checked configuration.
        resources: What the training runs on and with.
        shape: The model's.
        tokens: The tokenised samples; None = not there yet, and each token is taken to count for the loss.
    """
    training = cfg.training
    adapters = num_adapter_parameters(shape, training.lora.rank)
    return Setup(
        ranks=resources.world_size,
        ranks_per_node=resources.num_processes,
        token_budget=resources.token_budget(tokens.longest_tokens if tokens else 0),
        loss_share=tokens.num_loss_tokens / tokens.num_tokens if tokens else 1.0,
        value_bytes=2 if resources.precision is Precision.bf16 else 4,
        gradient_checkpointing=resources.gradient_checkpointing,
        cpu_offload_params=resources.cpu_offload_params,
        fsdp_version=resources.fsdp_version,
        num_trained=adapters if training.lora.rank else None,
        adapter_dropout=training.lora.dropout > 0,
        on_gpu=bool(resources.num_gpus),
        copies_states=resources.async_states,
    )
