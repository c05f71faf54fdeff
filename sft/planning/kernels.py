"""Decide which kernels a training runs: its attention, and Liger's."""

from __future__ import annotations

import importlib.util

from sft.adapters.os import machine
from sft.config.schema import Attention, Precision, TrainingConfig
from sft.planning.choices import Choices


def resolve_attention(cfg: TrainingConfig, precision: Precision, choices: Choices, *, on_gpu: bool) -> Attention:
    """Return flash attention where it was asked for or is there, else torch's own; never auto.

    Args:
        cfg: The training settings.
        precision: What forward and backward compute in; flash attention has no fp32.
        choices: Gets the reason, and what is done instead of what the recipe says.
        on_gpu: Whether a GPU trains, here or in a pod.
    """
    if cfg.launcher.is_remote:
        if cfg.attention is Attention.flash_attention and on_gpu and precision is Precision.bf16:
            note = "training.launcher.image must have flash-attn"
            choices.notes.append(f"training.attention=flash_attention: {note}")
            return Attention.flash_attention
        lacking = "the image's packages are not known here" if on_gpu else "it needs a GPU"
    else:
        lacking = _lacking_for_flash_attention() if on_gpu else "it needs a GPU"
    if on_gpu and precision is Precision.fp32:
        lacking = lacking or "flash attention computes in bf16, and this training in fp32"
    if not lacking and cfg.attention is not Attention.sdpa:
        choices.because("attention", "flash-attn is installed")
        return Attention.flash_attention
    if cfg.attention is Attention.flash_attention:
        setting = "training.attention=flash_attention"
        choices.instead("attention", setting, lacking, "samples are padded to the longest of their minibatch")
    elif cfg.attention is Attention.auto:
        choices.because("attention", f"no flash attention: {lacking}")
        if on_gpu:
            choices.notes.append(f"{lacking}: samples are padded to the longest of their minibatch")
    return Attention.sdpa


def _lacking_for_flash_attention() -> str:
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


def note_deterministic(cfg: TrainingConfig, attention: Attention, choices: Choices, *, on_gpu: bool) -> None:
    """Note which kernels `training.deterministic` takes, and what they cost."""
    if not cfg.deterministic:
        return
    kernels = {
        Attention.flash_attention: "flash-attn's deterministic backward pass",
        Attention.sdpa: "torch's deterministic backward passes of attention",
    }
    if on_gpu:
        what = f"{kernels[attention]}, cuBLAS with a fixed workspace (32 MiB a stream), indexing without atomics"
        choices.notes.append(f"training.deterministic=true: {what}; the backward pass is slower")
    else:
        choices.notes.append("training.deterministic=true: ranks on CPUs give the same bits anyway; it costs no time")
