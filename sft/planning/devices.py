"""How many GPUs a training uses: of this machine's, or what a TrainJob asks for. Imports nothing heavy."""

from __future__ import annotations

from sft.adapters.os import machine
from sft.config.schema import LauncherConfig


def num_gpus(cfg: LauncherConfig) -> int:
    """Return the GPUs of one machine that train; 0 = it trains on the CPU.

    Raises:
        SftError: The driver doesn't answer.
    """
    if cfg.is_remote:
        return cfg.gpus_per_worker or 0
    if cfg.gpus_per_worker == 0:
        return 0
    here = len(machine.gpus())
    return here if cfg.gpus_per_worker is None else min(cfg.gpus_per_worker, here)
