"""Say what the memory estimate takes of a training: sizes and settings of one rank. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sft.artifacts import TokenizedArtifact
from sft.config.schema import Precision, RunConfig
from sft.planning.adapters import kept_by, num_adapter_parameters, num_saved_whole, quantized_by
from sft.planning.memory import Setup
from sft.planning.model_shape import Shape
from sft.planning.trained_parameters import moment_bytes, num_frozen

if TYPE_CHECKING:
    from sft.planning.resources import Resources


def setup_of(
    cfg: RunConfig,
    resources: Resources,
    shape: Shape,
    tokens: TokenizedArtifact | None,
    sizes: Mapping[str, int] | None = None,
) -> Setup:
    """Return how a rank trains, as far as memory depends on it.

    Args:
        cfg: A checked configuration.
        resources: What the training runs on and with.
        shape: The model's.
        tokens: The tokenised samples; None = not there yet, and each token is taken to count for the loss.
        sizes: Of the model's tensors by name; None = not known, and nothing is taken to be frozen.
    """
    training = cfg.training
    whole = num_saved_whole(training.lora, shape, sizes)
    trained = num_adapter_parameters(training.lora, shape) + whole
    return Setup(
        ranks=resources.world_size,
        context_parallel=resources.context_parallel,
        ranks_per_node=resources.num_processes,
        token_budget=resources.token_budget(tokens.longest_tokens if tokens else 0),
        loss_share=tokens.num_loss_tokens / tokens.num_tokens if tokens else 1.0,
        value_bytes=2 if resources.precision is Precision.bf16 else 4,
        gradient_checkpointing=resources.gradient_checkpointing,
        cpu_offload_params=resources.cpu_offload_params,
        fsdp_version=resources.fsdp_version,
        num_trained=trained if training.lora.rank else None,
        num_frozen=num_frozen(training, sizes) if sizes and not training.lora.rank else 0,
        moment_bytes=moment_bytes(training, shape),
        adapter_dropout=training.lora.dropout > 0,
        num_whole=whole,
        trains_head=any(name.endswith("lm_head") for name in training.lora.modules_to_save),
        adapters=kept_by(training.lora, shape) if training.lora.rank else None,
        quantized=quantized_by(training.lora, shape),
        on_gpu=bool(resources.num_gpus),
        copies_states=resources.async_states,
        keeps_best=training.select.validated is not None,
    )
