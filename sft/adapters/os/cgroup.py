"""Owns what the control group of this process may use: CPUs and memory, as a pod's limits set them.

Of version 2 (``cpu.max``, ``memory.max``; docs.kernel.org/admin-guide/cgroup-v2.html). Every group above counts, too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def num_cpus() -> int:
    """Return how many CPUs this process can keep busy: those that it may run on, within the quota, at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups():
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cpus = min(cpus, math.ceil(int(quota) / int(period)))
    return max(1, cpus)


def limit_bytes() -> int | None:
    """Return the bytes of memory that the groups allow at most; None = they set no limit."""
    limits = (_text(folder / "memory.max") for folder in _groups())
    return min((int(limit) for limit in limits if limit.isdigit()), default=None)


def free_bytes() -> int | None:
    """Return the bytes of memory that the groups still allow; None = they set no limit.

    Pages of files that have not been used lately don't count as used: the kernel takes them back when it needs them.
    """
    free = []
    for folder in _groups():
        limit, used = _text(folder / "memory.max"), _text(folder / "memory.current")
        if limit.isdigit() and used.isdigit():
            facts = dict(line.partition(" ")[::2] for line in _text(folder / "memory.stat").splitlines())
            free.append(max(0, int(limit) - int(used) + int(facts.get("inactive_file", 0))))
    return min(free, default=None)


def _groups() -> Iterator[Path]:
    """Yield the folder of this process's group and those above it, as far as they are visible here."""
    own = next((line[3:] for line in _text(OWN).splitlines() if line.startswith("0::")), "/")
    folder = ROOT / own.strip("/")
    folder = folder if folder.is_dir() and ".." not in own else ROOT
    yield from (each for each in (folder, *folder.parents) if each.is_relative_to(ROOT))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
