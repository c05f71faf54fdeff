"""Decide which layers recompute their activations: none where the memory estimate says that everything fits.

The choice is part of the training's key. So it is made against all of the memory that a rank's device has, not what is
free of it now, and by the most that a minibatch may need: the same recipe on the same machine makes the same choice.
What is free now is looked at by `sft.planning.machine_needs`, which refuses a training that does not fit into it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sft.adapters.os import machine
from sft.config.schema import GradientCheckpointing, RunConfig
from sft.planning import memory
from sft.planning.model_config import fetch_model_config
from sft.planning.model_shape import shape_of
from sft.planning.training_setup import setup_of

if TYPE_CHECKING:
    from sft.planning.resources import Resources

_MARGIN = 0.85
"""Part of the memory that the estimate may fill: measured peaks may be 15% beyond it (docs/memory.md)."""
_GIB = 2**30


def choose_recomputation(cfg: RunConfig, resources: Resources) -> tuple[GradientCheckpointing, str]:
    """Return what ``gradient_checkpointing: auto`` becomes, and why.

    Args:
        cfg: A checked configuration.
        resources: What the training runs on and with otherwise.

    Raises:
        DataError: The model's config is on the hub and can't be fetched.
    """
    full = GradientCheckpointing.full
    if cfg.training.launcher.is_remote:
        return full, "the memory of the cluster's machines is not known here"
    if resources.nodes.num > 1 and not resources.num_gpus:
        return full, "several machines must agree, and each has other memory"
    total = machine.gpu_total_bytes() if resources.num_gpus else machine.host_total_bytes() // resources.num_processes
    if not total:
        return full, "the driver does not say how much memory the GPU has"
    config = fetch_model_config(cfg.model)
    shape = shape_of(config) if config else None
    if shape is None:
        return full, "what a model of this architecture needs is not known"
    setup = setup_of(cfg, resources, shape, None)
    modes = (GradientCheckpointing.none, GradientCheckpointing.selective, full)
    sizes = {
        mode: memory.peak_bytes(shape, resources.strategy, replace(setup, gradient_checkpointing=mode))
        for mode in modes
    }
    chosen = next((mode for mode, needed in sizes.items() if needed <= _MARGIN * total), full)
    estimates = ", ".join(f"{mode.value} {needed / _GIB:.1f}" for mode, needed in sizes.items())
    share = f"{_MARGIN:.0%} of the {total / _GIB:.1f} GiB for a rank"
    return chosen, f"the cheapest by the estimate ({estimates} GiB) within {share}"
