"""Say whether the copies of a full state that ranks on GPUs make fit into their machine's memory.

A rank without a GPU has the copy in its own estimate. What is free now may decide here, because how a state is saved is
not part of the training's key. Imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sft.adapters.os import machine
from sft.config.k8s_quantity import amount
from sft.config.schema import RunConfig
from sft.planning import memory
from sft.planning.model_config import read_model_config
from sft.planning.model_shape import shape_of
from sft.planning.training_setup import setup_of

if TYPE_CHECKING:
    from sft.planning.resources import Resources

_GIB = 2**30


def too_large_copies(cfg: RunConfig, resources: Resources) -> str | None:
    """Return why there is no room for the copies of a machine's ranks; None if there is, or if that is not known.

    Args:
        cfg: A checked configuration.
        resources: What the training runs on and with otherwise.
    """
    config = read_model_config(cfg.model)
    shape = shape_of(config) if config else None
    if shape is None:
        return None
    of_a_rank = memory.copied_bytes(shape, resources.strategy, setup_of(cfg, resources, shape, None))
    needed = of_a_rank * resources.num_processes
    launcher = cfg.training.launcher
    available = int(amount(launcher.pod_memory)) if launcher.is_remote else machine.host_bytes()
    if needed <= available:
        return None
    has = f"a pod has {available / _GIB:.1f}" if launcher.is_remote else f"{available / _GIB:.1f} are free"
    return f"copies of a full state would take {needed / _GIB:.1f} GiB of host memory, and {has}"
