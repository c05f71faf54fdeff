"""Owns facts about this machine: GPUs, their memory, the CPU. It doesn't import torch."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from sft.adapters.os import cgroup
from sft.adapters.os import gpus as _gpus


def gpus() -> tuple[str, ...]:
    """Return the names of the CUDA devices that a process started here would see.

    Honours ``CUDA_VISIBLE_DEVICES`` and MIG. Asks the driver's ``nvidia-smi``, because importing torch takes seconds.

    Raises:
        SftError: The driver's program doesn't answer.
    """
    return tuple(gpu.name for gpu in _gpus.visible())


def gpu_ids() -> tuple[str, ...]:
    """Return the ids of `gpus`, as ``CUDA_VISIBLE_DEVICES`` names them."""
    return tuple(gpu.id for gpu in _gpus.visible())


def gpu_trouble() -> str:
    """Return why the driver's program fails although it is there; empty if it does not."""
    return _gpus.trouble()


def use_gpus(visible: str | None) -> None:
    """Show only these GPUs to this process and its children from now on; None = all."""
    if visible is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    _gpus.forget()


def device() -> str:
    """Return the first GPU's name, or ``cpu``."""
    return gpus()[0] if gpus() else "cpu"


def runs_liger() -> bool:
    """Return whether Liger's kernels can run here: Triton needs a GPU."""
    return bool(gpus()) and importlib.util.find_spec("liger_kernel") is not None


def c_compiler() -> str | None:
    """Return the C compiler that Triton takes here (triton/runtime/build.py); None if it finds none."""
    if os.environ.get("CC"):
        return shutil.which(os.environ["CC"])
    return shutil.which("gcc") or shutil.which("clang")


def cpp_compiler() -> str | None:
    """Return the C++ compiler that torch takes for this CPU (its _inductor/cpp_builder.py); None if there is none."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def python_headers() -> Path | None:
    """Return Python's C header, which everything includes that torch or Triton compile; None if it is not installed."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return header if header.is_file() else None


def compute_capability() -> tuple[int, int]:
    """Return the lowest CUDA compute capability of `gpus`; (0, 0) if there is none."""
    return min((gpu.capability for gpu in _gpus.visible()), default=(0, 0))


def cpu() -> str:
    """Return this CPU's model and its instruction sets, as the kernel names them; two CPUs alike have the same."""
    facts = _cpu_facts()
    return " ".join([facts.get("model name") or platform.processor() or platform.machine(), *sorted(_cpu_flags())])


def cpu_computes_bf16() -> bool:
    """Return whether this CPU has instructions that multiply bfloat16: AMX, AVX-512, or those of Arm."""
    return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(_cpu_flags())


def cpu_emulates(dtype: str) -> bool:
    """Return whether this CPU computes with a type of 16 bits, by torch's name, slowly: with instructions of fp32."""
    return dtype in {"bfloat16", "float16"} and not cpu_computes_bf16()


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


def gpu_bytes() -> int:
    """Return the bytes that are free now on that GPU of which least is free; 0 if there is none, or it is not known."""
    return min((gpu.free_bytes for gpu in _gpus.visible()), default=0)


def gpu_total_bytes() -> int:
    """Return the memory of the smallest GPU in bytes; 0 if there is none, or it is not known."""
    return min((gpu.total_bytes for gpu in _gpus.visible()), default=0)


def host_total_bytes() -> int:
    """Return the bytes that processes here may use at most: the machine's, within the cgroup's limit."""
    total, limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), cgroup.limit_bytes()
    return total if limit is None else min(total, limit)


def host_bytes() -> int:
    """Return the bytes that processes here can still allocate: the kernel's, within the cgroup's limit."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    facts = Path("/proc/meminfo")
    if facts.is_file():
        lines = dict(line.split(":", 1) for line in facts.read_text(encoding="utf-8").splitlines())
        free = int(lines["MemAvailable"].split()[0]) << 10
    allowed = cgroup.free_bytes()
    return free if allowed is None else min(free, allowed)
