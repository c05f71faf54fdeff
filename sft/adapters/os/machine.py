"""Owns facts about this machine: GPUs, their memory, the CPU. It doesn't import torch."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path


@cache
def gpus() -> tuple[str, ...]:
    """Return the names of the CUDA devices that a process started here would see.

    Honours ``CUDA_VISIBLE_DEVICES``. Asks the driver's ``nvidia-smi``, because importing torch takes seconds.
    """
    names = _nvidia_smi("name")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return names
    chosen = [entry for entry in visible.split(",") if entry.strip() and entry.strip() != "-1"]
    return tuple(names[int(c)] if c.isdigit() and int(c) < len(names) else names[0] for c in chosen) if names else ()


def gpu_ids() -> tuple[str, ...]:
    """Return the ids of `gpus`, as ``CUDA_VISIBLE_DEVICES`` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ""
    ids = [entry for entry in visible.split(",") if entry.strip()]
    return tuple(ids[: len(gpus())]) if ids else tuple(str(place) for place in range(len(gpus())))


def use_gpus(visible: str | None) -> None:
    """Show only these GPUs to this process and its children from now on; None = all."""
    if visible is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    for known in (gpus, compute_capability, gpu_bytes):
        known.cache_clear()


def device() -> str:
    """Return the first GPU's name, or ``cpu``."""
    return gpus()[0] if gpus() else "cpu"


def runs_liger() -> bool:
    """Return whether Liger's kernels can run here: Triton needs a GPU."""
    return bool(gpus()) and importlib.util.find_spec("liger_kernel") is not None


@cache
def compute_capability() -> tuple[int, int]:
    """Return the CUDA compute capability of the first GPU; (0, 0) if there is none."""
    major, _, minor = next(iter(_nvidia_smi("compute_cap")), "").strip().partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def cpu() -> str:
    """Return this CPU's model and its instruction sets, as the kernel names them; two CPUs alike have the same."""
    facts = _cpu_facts()
    return " ".join([facts.get("model name") or platform.processor() or platform.machine(), *sorted(_cpu_flags())])


def cpu_computes_bf16() -> bool:
    """Return whether this CPU has instructions that multiply bfloat16: AMX, AVX-512, or those of Arm."""
    return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(_cpu_flags())


def _cpu_flags() -> set[str]:
    facts = _cpu_facts()
    return set((facts.get("flags") or facts.get("Features") or "").split())  # x86, Arm


def _cpu_facts() -> dict[str, str]:
    """Return what the kernel says of the first core; empty where it has no such file."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


@cache
def gpu_bytes() -> int:
    """Return the memory of the smallest GPU in bytes; 0 if there is none."""
    mebibytes = [line.strip() for line in _nvidia_smi("memory.total")]
    return min((int(value) << 20 for value in (m.partition(" ")[0] for m in mebibytes) if value.isdigit()), default=0)


def host_bytes() -> int:
    """Return the bytes that processes here can still allocate: the kernel's, within the cgroup's limit."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    facts = Path("/proc/meminfo")
    if facts.is_file():
        lines = dict(line.split(":", 1) for line in facts.read_text(encoding="utf-8").splitlines())
        free = int(lines["MemAvailable"].split()[0]) << 10
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and limit.read_text(encoding="utf-8").strip().isdigit():
        free = min(free, int(limit.read_text(encoding="utf-8")) - int(used.read_text(encoding="utf-8")))
    return free


def _nvidia_smi(what: str) -> tuple[str, ...]:
    """Return a property of each GPU as the driver's program prints it; empty if there is no GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    argv = [program, f"--query-gpu={what}", "--format=csv,noheader"]
    answer = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    return tuple(answer.stdout.split("\n")[:-1]) if answer.returncode == 0 else ()
