"""Choose what a new recipe begins with: a model that fits the memory, LoRA or not, batch and epochs that fit the rows.

The numbers of `MODELS` are those of each model's ``config.json`` on the hub. Imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sft.adapters.instructlab.training_length import training_length
from sft.adapters.os import machine
from sft.config.schema import RunConfig
from sft.planning import memory
from sft.planning.model_shape import Shape, shape_of
from sft.planning.resources import resolve_resources
from sft.planning.training_setup import setup_of

_LLAMA = {"model_type": "llama", "torch_dtype": "bfloat16"}
_QWEN = {"model_type": "qwen2", "torch_dtype": "bfloat16"}
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def _config(base: Mapping[str, Any], vocab_size: int, *sizes: int, tied: bool = True) -> dict[str, Any]:
    named = dict(zip(_SIZES, sizes, strict=True))
    return {**base, "vocab_size": vocab_size, "tie_word_embeddings": tied, **named}


MODELS: Mapping[str, Mapping[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": _config(_LLAMA, 49_152, 576, 1_536, 30, 9, 3),
    "HuggingFaceTB/SmolLM2-360M-Instruct": _config(_LLAMA, 49_152, 960, 2_560, 32, 15, 5),
    "Qwen/Qwen2.5-0.5B-Instruct": _config(_QWEN, 151_936, 896, 4_864, 24, 14, 2),
    "Qwen/Qwen2.5-1.5B-Instruct": _config(_QWEN, 151_936, 1_536, 8_960, 28, 12, 2),
    "Qwen/Qwen2.5-7B-Instruct": _config(_QWEN, 152_064, 3_584, 18_944, 28, 28, 4, tied=False),
    "Qwen/Qwen2.5-14B-Instruct": _config(_QWEN, 152_064, 5_120, 13_824, 48, 40, 8, tied=False),
    "Qwen/Qwen2.5-32B-Instruct": _config(_QWEN, 152_064, 5_120, 27_648, 64, 40, 8, tied=False),
}
"""Models under Apache-2.0, smallest first."""
LARGEST_ON_CPU = 200_000_000
"""Parameters beyond which a training on a CPU takes hours, for a few hundred rows."""
_ENOUGH_STEPS, _LARGEST_BATCH, _SMALLEST_BATCH, _MOST_EPOCHS = 60, 64, 4, 10


@dataclass(frozen=True)
class Fit:
    """How a model fits this machine.

    Attributes:
        shape: The model's.
        full_bytes: What a rank needs at its peak if every weight is trained, by the estimate of docs/memory.md.
        lora_bytes: The same with adapters.
        available_bytes: What a rank has; 0 = not known.
        on_gpu: Whether a GPU trains.
    """

    shape: Shape
    full_bytes: int
    lora_bytes: int
    available_bytes: int
    on_gpu: bool

    @property
    def fits(self) -> bool:
        """Whether it can be trained here at all."""
        return not self.available_bytes or self.lora_bytes <= self.available_bytes

    @property
    def wants_lora(self) -> bool:
        """Whether only adapters fit."""
        return bool(self.available_bytes) and self.full_bytes > self.available_bytes

    @property
    def is_quick(self) -> bool:
        """Whether a few hundred rows take minutes, not hours."""
        return self.on_gpu or self.shape.num_parameters <= LARGEST_ON_CPU


def fit(config: Mapping[str, Any], full: RunConfig, lora: RunConfig) -> Fit | None:
    """Return how a model fits; None if its shape is not known.

    Args:
        config: Its ``config.json``.
        full: Settings with which every weight is trained.
        lora: The same with adapters.
    """
    shape = shape_of(config)
    if shape is None:
        return None
    needed = []
    for cfg in (full, lora):
        resources = resolve_resources(cfg.training)
        needed.append(memory.peak_bytes(shape, resources.strategy, setup_of(cfg, resources, shape, None)))
    resources = resolve_resources(full.training)
    on_gpu = bool(resources.num_gpus)
    available = machine.gpu_bytes() if on_gpu else machine.host_bytes() // resources.num_processes
    return Fit(shape, needed[0], needed[1], available, on_gpu)


def fits(full: RunConfig, lora: RunConfig) -> Iterator[tuple[str, Fit]]:
    """Yield each model of `MODELS` that this machine can train, smallest first, and how it fits."""
    for name, config in MODELS.items():
        how = fit(config, full, lora)
        if how and how.fits:
            yield name, how


def suggested(found: Mapping[str, Fit]) -> str | None:
    """Return the largest model that is trained whole and quickly; else with adapters; else the smallest.

    None if there is none.
    """
    whole = [name for name, how in found.items() if how.is_quick and not how.wants_lora]
    quick = [name for name, how in found.items() if how.is_quick]
    return next((names[-1] for names in (whole, quick) if names), next(iter(found), None))


def num_steps(num_samples: int, batch_size: int, num_epochs: int) -> int:
    """Return the optimizer steps of a training."""
    return training_length(num_samples, batch_size, num_epochs, None).num_steps


def batch_and_epochs(num_samples: int, num_ranks: int) -> tuple[int, int]:
    """Return an effective batch size and a number of epochs with which the rows make a training of enough steps.

    Args:
        num_samples: Those of the training split.
        num_ranks: The batch is a multiple of them.
    """
    epochs = 3 if num_samples <= 20_000 else 1
    batch = _LARGEST_BATCH
    while batch > _SMALLEST_BATCH and num_steps(num_samples, batch, epochs) < _ENOUGH_STEPS:
        batch //= 2
    batch = max(num_ranks, batch // num_ranks * num_ranks)
    if num_steps(num_samples, batch, epochs) < _ENOUGH_STEPS // 3:
        epochs = min(_MOST_EPOCHS, math.ceil(_ENOUGH_STEPS / 3 / num_steps(num_samples, batch, 1)))
    return batch, epochs


def learning_rate(shape: Shape | None, *, lora: bool) -> float:
    """Return a learning rate to begin with: adapters take ten times more, small models more than large ones."""
    if lora:
        return 2e-4
    return 2e-5 if shape is None or shape.num_parameters < 1_000_000_000 else 1e-5
