"""Owns what this machine computes with, found without importing torch."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from functools import cache


@cache
def gpus() -> tuple[str, ...]:
    """Names of the CUDA devices that a process started here would see; empty on a machine without.

    Honours ``CUDA_VISIBLE_DEVICES``. Asks the driver's ``nvidia-smi``, as torch would take seconds to import.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    argv = [program, "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    names = tuple(answer.stdout.split("\n")[:-1]) if answer.returncode == 0 else ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return names
    chosen = [entry for entry in visible.split(",") if entry.strip() and entry.strip() != "-1"]
    return tuple(names[int(c)] if c.isdigit() and int(c) < len(names) else names[0] for c in chosen) if names else ()


def device() -> str:
    """``cpu``, or the first GPU's name."""
    return gpus()[0] if gpus() else "cpu"


def runs_liger() -> bool:
    """Whether Liger's kernels can run here: Triton needs a GPU."""
    return bool(gpus()) and importlib.util.find_spec("liger_kernel") is not None


@cache
def compute_capability() -> tuple[int, int]:
    """CUDA's compute capability of the first GPU; (0, 0) on a machine without."""
    program = shutil.which("nvidia-smi")
    if program is None or not gpus():
        return (0, 0)
    argv = [program, "--query-gpu=compute_cap", "--format=csv,noheader"]
    answer = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    major, _, minor = answer.stdout.partition("\n")[0].strip().partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
