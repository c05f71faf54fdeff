"""How many optimizer steps a training makes, told where they are too few to teach anything."""

from __future__ import annotations

import math

from sft.adapters.instructlab.training_length import TrainingLength, training_length
from sft.config.schema import TrainingConfig

_FEW, _ENOUGH = 10, 20
_LARGEST_BATCH, _SMALLEST_BATCH, _STEPS = 128, 4, 50


def num_validation_samples(cfg: TrainingConfig, num_samples: int) -> int:
    """Return how many samples `training.validation_split` takes, rounded up as datasets' `train_test_split` does."""
    return math.ceil(cfg.validation_split * num_samples)


def batch_size_of(cfg: TrainingConfig, num_trained: int) -> int:
    """Return the samples of a step: those of the recipe, or by the number of samples, whatever the machine.

    Args:
        cfg: The training settings.
        num_trained: Samples of an epoch, those that it validates on left out.
    """
    if cfg.effective_batch_size is not None:
        return cfg.effective_batch_size
    batch = _LARGEST_BATCH
    while batch > _SMALLEST_BATCH:
        if training_length(num_trained, batch, cfg.num_epochs, cfg.max_steps).num_steps >= _STEPS:
            break
        batch //= 2
    return batch


def length_of(cfg: TrainingConfig, num_trained: int) -> TrainingLength:
    """Return the length of a training of so many samples, those that it validates on left out."""
    return training_length(num_trained, batch_size_of(cfg, num_trained), cfg.num_epochs, cfg.max_steps)


def length_notes(cfg: TrainingConfig, num_samples: int, num_ranks: int) -> list[str]:
    """Return what is to be said of a training's steps: that they are few, that ranks have no sample in each of them.

    Args:
        cfg: The training settings.
        num_samples: Those of the training split.
        num_ranks: That train.
    """
    batch = batch_size_of(cfg, num_samples - num_validation_samples(cfg, num_samples))
    few = few_steps_note(cfg, num_samples, num_ranks)
    idle = (
        f"training.effective_batch_size=null chose {batch}, so {num_ranks - batch} ranks have nothing to do in a step"
    )
    return [*([few] if few else []), *([idle] if batch < num_ranks else [])]


def few_steps_note(cfg: TrainingConfig, num_samples: int, num_ranks: int) -> str | None:
    """Return a line that says how few steps there are and what gives more; None if there are some, or were asked for.

    Args:
        cfg: The training settings.
        num_samples: Those of the training split; the validation split is taken from them.
        num_ranks: Each needs a sample of a batch.
    """
    trained = num_samples - num_validation_samples(cfg, num_samples)
    batch, epochs = batch_size_of(cfg, trained), cfg.num_epochs
    steps = length_of(cfg, trained).num_steps
    if steps >= _FEW or cfg.max_steps is not None:
        return None
    smaller = max(num_ranks, int(trained * epochs) // _ENOUGH, 1)
    settings = [f"training.num_epochs={math.ceil(_ENOUGH / math.ceil(trained / batch))}"] if steps else []
    settings += [f"training.effective_batch_size={smaller}"] if smaller < batch else []
    counted = "1 optimizer step" if steps == 1 else f"{steps} optimizer steps"
    of = f"{trained} sample{'' if trained == 1 else 's'}, training.effective_batch_size={batch}"
    return f"only {counted} in all, of {of}: try {' or '.join(settings)}" if settings else None
