"""Owns which layers recompute their activations in the backward pass (`training.gradient_checkpointing`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sft.adapters.patched import patched
from sft.errors import StageError

_INSTEAD = "set training.gradient_checkpointing=none"


@contextmanager
def patched_recomputation(mode: str, *, with_reentry: bool) -> Iterator[None]:
    """Replace what the library recomputes, until the block ends: everything, or nothing with a warning in a log.

    Args:
        mode: ``none``; ``selective``, every second layer, as torchtitan's option of that name; ``full``, each layer.
        with_reentry: Whether torch's older way is taken, which LoRA's adapters need under FSDP1: without, the forward
            pass sees fp32 and what is recomputed bf16 (trap 12).
    """
    from instructlab.training import model

    def enable(self: Any) -> None:  # model.py:213@0.16.2
        if mode != "none":
            recompute(self.model, mode, use_reentrant=with_reentry)

    with patched((model.Model, "_enable_gradient_checkpointing_if_supported", enable)):
        yield


def recompute(network: Any, mode: str, *, use_reentrant: bool = False) -> None:
    """Make layers recompute their activations.

    Args:
        network: A model of transformers.
        mode: ``selective`` or ``full``.
        use_reentrant: As `torch.utils.checkpoint.checkpoint` takes it.

    Raises:
        StageError: The architecture can't.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    architecture = type(network).__name__
    try:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise StageError(f"{architecture} can't recompute activations: {error}", fix=_INSTEAD) from error
    if mode == "selective":
        layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not layers:
            raise StageError(f"{architecture} can't recompute some of its layers only", fix=f"{_INSTEAD} or full")
        for number, layer in enumerate(layers):
            layer.gradient_checkpointing = number % 2 == 0
