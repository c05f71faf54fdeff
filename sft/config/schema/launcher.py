"""Settings of `training.launcher`: what starts the ranks, and where."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class LauncherKind(Enum):
    """What starts the ranks."""

    torchrun = "torchrun"


@dataclass(kw_only=True)
class LauncherConfig:
    """Processes of the training stage."""

    kind: LauncherKind = LauncherKind.torchrun
    num_workers: int = 1
    """Machines that train together on one `run_root`; on each the same command runs. torchrun: `--nnodes`."""
    node_rank: int | None = None
    """Which of them this one is, from 0; null = `PET_NODE_RANK`. Node 0 also does the other stages."""
    rendezvous: str | None = None
    """`host:port` of node 0; null = `PET_MASTER_ADDR` and `PET_MASTER_PORT`."""
    gpus_per_worker: int | None = None
    """GPUs of a machine that train; null = all that are there."""
    procs_per_worker: int | None = None
    """Ranks on a machine; null = one per GPU, or one on a machine without. torchrun: `--nproc-per-node`."""
