"""Decide which kernels a training runs: its attention, and Liger's."""

from __future__ import annotations

import importlib.util

from sft.adapters.instructlab.settings import VARLEN_CAPABILITY
from sft.adapters.os import machine
from sft.config.schema import Attention, BaseQuantization, Compile, Precision, TrainingConfig
from sft.planning.choices import Choices

_TRITON_CAPABILITY = (7, 0)
"""For GPUs from this compute capability on torch.compile takes Triton (torch _inductor/scheduler.py:8495@2.13)."""


def resolve_attention(cfg: TrainingConfig, precision: Precision, choices: Choices, *, on_gpu: bool) -> Attention:
    """Return flash attention where it was asked for or is there, else torch's own over packed rows; never auto.

    Args:
        cfg: The training settings.
        precision: What forward and backward compute in; flash attention has no fp32.
        choices: Gets the reason, and what is done instead of what the recipe says.
        on_gpu: Whether a GPU trains, here or in a pod.
    """
    wanted = cfg.attention
    if wanted in {Attention.sdpa, Attention.varlen}:
        return wanted
    if cfg.context_parallel > 1:
        why = f"ranks share a row, which takes torch's own{_how(cfg, precision, on_gpu=on_gpu)}"
        choices.because("attention", why)
        return Attention.varlen
    asks_for_flash = wanted is Attention.flash_attention
    lacking = _lacking_for_flash_attention(cfg, precision, is_asked_for=asks_for_flash, on_gpu=on_gpu)
    if not lacking:
        if cfg.launcher.is_remote:
            choices.notes.append("training.attention=flash_attention: training.launcher.image must have flash-attn")
        else:
            choices.because("attention", "flash-attn is installed")
        return Attention.flash_attention
    if asks_for_flash:
        choices.instead("attention", "training.attention=flash_attention", lacking, "torch's own over packed rows")
    else:
        choices.because("attention", f"torch's own over packed rows{_how(cfg, precision, on_gpu=on_gpu)}: {lacking}")
    return Attention.varlen


def _how(cfg: TrainingConfig, precision: Precision, *, on_gpu: bool) -> str:
    """Return how torch attends over packed rows; a pod's GPU is not known, and its ranks note it."""
    if on_gpu and cfg.launcher.is_remote:
        return ""
    has_kernel = on_gpu and precision is Precision.bf16 and machine.compute_capability() >= VARLEN_CAPABILITY
    return ", by its kernel" if has_kernel else ", sample by sample"


def _lacking_for_flash_attention(cfg: TrainingConfig, precision: Precision, *, is_asked_for: bool, on_gpu: bool) -> str:
    """Return what is missing for flash attention; empty where all is there."""
    if not on_gpu:
        return "no GPU, so no flash attention"
    if cfg.launcher.is_remote:
        lacking = "" if is_asked_for else "the image's packages are not known here"
    else:
        lacking = _lacking_here()
    if not lacking and precision is Precision.fp32:
        return "flash attention computes in bf16, and this training in fp32"
    return lacking


def _lacking_here() -> str:
    """Return what this machine lacks for flash attention; empty where it has all."""
    if importlib.util.find_spec("flash_attn") is None:
        return "flash-attn is not installed"
    major, minor = machine.compute_capability()
    if not (major == 8 or (major, minor) == (9, 0)):
        return f"instructlab-training knows flash attention for compute capability 8.x and 9.0, not {major}.{minor}"
    return ""


def resolve_liger(cfg: TrainingConfig, choices: Choices, *, on_gpu: bool) -> bool:
    """Return whether Liger's kernels are used: where they are asked for and can run."""
    if not cfg.use_liger:
        return False
    setting = "training.use_liger=true"
    if on_gpu and cfg.deterministic:
        why = "training.deterministic=true, and torch can't tell whether Liger's kernels are"
        choices.instead("use_liger", setting, why, "trains without")
        return False
    if not on_gpu:
        choices.instead("use_liger", setting, "it needs a GPU", "trains without")
        return False
    if cfg.launcher.is_remote:
        choices.notes.append(
            f"{setting}: training.launcher.image must have liger-kernel (EXTRAS=liger) and a C compiler"
        )
        return True
    if not machine.runs_liger():
        missing = "liger-kernel is not installed (pip install 'sft-runner[liger]')"
        choices.instead("use_liger", setting, missing, "trains without")
        return False
    if machine.c_compiler() is None:
        why = "Triton builds its launcher with a C compiler, and there is none (gcc, clang, or CC)"
        choices.instead("use_liger", setting, why, "trains without")
        return False
    return True


def resolve_compile(cfg: TrainingConfig, choices: Choices, *, on_gpu: bool) -> Compile:
    """Return what is compiled; what this machine lacks for it is refused by `machine_needs`, a pod is not known.

    Args:
        cfg: The training settings.
        choices: Gets what an image must have.
        on_gpu: Whether a GPU trains, here or in a pod.
    """
    if cfg.compile is Compile.regional and cfg.launcher.is_remote:
        needed = "Triton and a C compiler" if on_gpu else "a C++ compiler (g++)"
        choices.notes.append(
            f"training.compile=regional: training.launcher.image must have {needed}, and Python's headers"
        )
    return cfg.compile


def note_quantized(cfg: TrainingConfig, choices: Choices) -> None:
    """Note what an image must have for a base in 4 bits; what this machine lacks is refused by `machine_needs`."""
    if quantizes(cfg) and cfg.launcher.is_remote:
        setting = f"training.lora.quantize={cfg.lora.quantize.value}"
        choices.notes.append(f"{setting}: training.launcher.image must have bitsandbytes (EXTRAS=qlora)")


def quantizes(cfg: TrainingConfig) -> bool:
    """Return whether the base is kept in 4 bits."""
    return bool(cfg.lora.rank) and cfg.lora.quantize is not BaseQuantization.none


def missing_for_compiling(*, on_gpu: bool) -> str:
    """Return what this machine lacks to compile layers; empty where it has all."""
    lacking = []
    if on_gpu:
        if importlib.util.find_spec("triton") is None:
            lacking.append("Triton is not installed")
        if machine.compute_capability() < _TRITON_CAPABILITY:
            capability = ".".join(map(str, machine.compute_capability()))
            lacking.append(f"Triton needs compute capability {_TRITON_CAPABILITY[0]}.0, this GPU's is {capability}")
        if machine.c_compiler() is None:
            lacking.append("there is no C compiler (gcc, clang, or CC)")
    elif machine.cpp_compiler() is None:
        lacking.append("there is no C++ compiler (g++, or CXX)")
    if machine.python_headers() is None:
        lacking.append("Python's headers are not installed (Python.h)")
    return ", ".join(lacking)


def note_deterministic(cfg: TrainingConfig, attention: Attention, choices: Choices, *, on_gpu: bool) -> None:
    """Note which kernels `training.deterministic` takes, and what they cost."""
    if not cfg.deterministic:
        return
    kernels = {
        Attention.flash_attention: "flash-attn's deterministic backward pass",
        Attention.varlen: "torch's deterministic backward passes of attention",
        Attention.sdpa: "torch's deterministic backward passes of attention",
    }
    if on_gpu:
        what = f"{kernels[attention]}, cuBLAS with a fixed workspace (32 MiB a stream), indexing without atomics"
        choices.notes.append(f"training.deterministic=true: {what}; the backward pass is slower")
    else:
        choices.notes.append("training.deterministic=true: ranks on CPUs give the same bits anyway; it costs no time")
