"""Decide which kernels a training runs: its attention, and Liger's."""

from __future__ import annotations

import importlib.util

from sft.adapters.os import machine
from sft.config.schema import Attention, TrainingConfig
from sft.planning.choices import Choices


def resolve_attention(cfg: TrainingConfig, choices: Choices, *, on_gpu: bool) -> Attention:
    """Return flash attention where it was asked for or is there, else torch's own; never auto."""
    if cfg.launcher.is_remote:
        if cfg.attention is Attention.flash_attention and on_gpu:
            note = "training.launcher.image must have flash-attn"
            choices.notes.append(f"training.attention=flash_attention: {note}")
            return Attention.flash_attention
        lacking = "the image's packages are not known here" if on_gpu else "it needs a GPU"
    else:
        lacking = _lacking_for_flash_attention() if on_gpu else "it needs a GPU"
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
    if not on_gpu:
        choices.instead("use_liger", setting, "it needs a GPU", "trains without")
        return False
    if cfg.launcher.is_remote:
        choices.notes.append(f"{setting}: training.launcher.image must have liger-kernel (EXTRAS=liger)")
        return True
    if not machine.runs_liger():
        missing = "liger-kernel is not installed (pip install 'sft-runner[liger]')"
        choices.instead("use_liger", setting, missing, "trains without")
        return False
    return True
