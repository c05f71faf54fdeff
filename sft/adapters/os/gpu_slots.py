"""Owns how runs share one machine at the same time: by ``CUDA_VISIBLE_DEVICES``, or by cores if it has no GPU.

Each run locks a slot, which is a lock on a file, and so is released when the run is killed, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from sft.adapters.os import machine

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_WAIT_SECONDS = 0.2


@dataclass(frozen=True)
class GpuSlots:
    """Equal parts of this machine.

    Attributes:
        num: Number of parts.
        gpus: Ids of all GPUs, as ``CUDA_VISIBLE_DEVICES`` names them.
        cores: All cores.
    """

    num: int
    gpus: tuple[str, ...]
    cores: tuple[int, ...]

    @contextmanager
    def acquire(self, folder: Path) -> Iterator[None]:
        """Wait for a free slot, and restrict this process and its children to it until the block ends.

        Args:
            folder: Holds the locks; the same one for all that share the machine.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with _lock_free_slot(folder, self.num) as place, self.restricted_to(place):
            yield

    @contextmanager
    def restricted_to(self, place: int) -> Iterator[None]:
        """Show this process only the GPUs or cores of a slot until the block ends, without locking it."""
        before, affinity = os.environ.get(_VISIBLE), _affinity()
        if self.gpus:
            size = len(self.gpus) // self.num
            machine.use_gpus(",".join(self.gpus[place * size : (place + 1) * size]))
        elif self.cores:
            size = max(1, len(self.cores) // self.num)
            first = place * size % len(self.cores)
            os.sched_setaffinity(0, self.cores[first : first + size])
        try:
            yield
        finally:
            if self.gpus:
                machine.use_gpus(before)
            elif self.cores:
                os.sched_setaffinity(0, affinity)


def slots(num: int) -> GpuSlots:
    """Return this machine, divided into `num` parts."""
    return GpuSlots(num, machine.gpu_ids(), _affinity())


def _affinity() -> tuple[int, ...]:
    """Return the cores of this process; empty if the system can't say."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


@contextmanager
def _lock_free_slot(folder: Path, num: int) -> Iterator[int]:
    locks = [filelock.FileLock(folder / f"slot-{place}.lock") for place in range(num)]
    while True:
        for place, lock in enumerate(locks):
            try:
                lock.acquire(timeout=0.0)
            except filelock.Timeout:
                continue
            try:
                yield place
            finally:
                lock.release()
            return
        time.sleep(_WAIT_SECONDS)
