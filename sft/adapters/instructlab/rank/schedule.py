"""Owns the learning rate's schedule in a rank: transformers' own, with every setting that it takes.

Upstream (accelerator.py:125@0.16.2) calls it with a name and a warm-up alone: then restarts never come, a polynomial is
a line that ends at 1e-7, and a warm-up longer than the training never reaches the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sft.adapters.instructlab.settings import WorkerOptions
from sft.adapters.patched import patched
from sft.errors import StageError

_WITHOUT_WARMUP = "constant"


@contextmanager
def patched_schedule(options: WorkerOptions, num_steps: Callable[[], int]) -> Iterator[None]:
    """Give the library's training this schedule until the block ends.

    Args:
        options: With the settings of `training.schedule`.
        num_steps: Returns the steps of the training, of whose last epoch the library counts all.
    """
    from instructlab.training import accelerator

    def get_scheduler(*, name: str, optimizer: Any, num_warmup_steps: int, num_training_steps: int) -> Any:  # noqa: ARG001
        return schedule(name, optimizer, num_warmup_steps, num_steps(), options)

    with patched((accelerator, "get_scheduler", get_scheduler)):
        yield


def schedule(name: str, optimizer: Any, warmup_steps: int, num_steps: int, options: WorkerOptions) -> Any:
    """Return the schedule of an optimizer.

    Args:
        name: `training.lr_scheduler`.
        optimizer: At its highest learning rate.
        warmup_steps: `training.warmup_steps`; `training.schedule.warmup_ratio`, if it is set, takes its place.
        num_steps: Of the whole training.
        options: With the settings of `training.schedule`.

    Raises:
        StageError: The training is too short for its warm-up, or for warm-up and decay.
    """
    import transformers

    key, ratio, peak = f"training.warmup_steps={warmup_steps}", options.warmup_ratio, optimizer.defaults["lr"]
    if ratio is not None:
        warmup_steps, key = math.ceil(ratio * num_steps), f"training.schedule.warmup_ratio={ratio}"
    decay_steps = math.ceil(options.decay_ratio * num_steps) if name == "warmup_stable_decay" else 0
    if name != _WITHOUT_WARMUP and warmup_steps and warmup_steps >= num_steps:
        raise StageError(
            f"{key}: the training has {num_steps} step{'' if num_steps == 1 else 's'}, so it never reaches its "
            "learning rate",
            fix="warm up for fewer, train for more epochs, or lower training.effective_batch_size",
        )
    if warmup_steps + decay_steps > num_steps:
        raise StageError(
            f"{key} and training.schedule.decay_ratio={options.decay_ratio} are {warmup_steps} and {decay_steps} "
            f"steps, and the training has {num_steps}",
            fix="shorten one of them",
        )
    lowest = options.min_learning_rate
    own: dict[str, dict[str, Any]] = {
        "cosine_with_restarts": {"num_cycles": options.schedule_cycles},
        "cosine_with_min_lr": {"min_lr": lowest},
        "polynomial": {"lr_end": lowest, "power": options.schedule_power},
        "warmup_stable_decay": {
            "num_decay_steps": decay_steps,
            "min_lr_ratio": lowest / peak if lowest else 0.0,
        },
    }
    return transformers.get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=num_steps,
        scheduler_specific_kwargs=own.get(name),
    )
