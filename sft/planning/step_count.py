"""How many optimizer steps a training makes, told where they are too few to teach anything."""

from __future__ import annotations

import math

from sft.config.schema import TrainingConfig

_FEW, _ENOUGH = 10, 20


def num_steps(num_samples: int, batch_size: int, num_epochs: int) -> int:
    """Return the optimizer steps of a training: the last batch of an epoch may be smaller."""
    return math.ceil(num_samples / batch_size) * num_epochs


def few_steps_note(cfg: TrainingConfig, num_samples: int, num_ranks: int) -> str | None:
    """Return a line that says how few steps there are and what gives more; None if there are some.

    Args:
        cfg: The training settings.
        num_samples: Those of the training split; the validation split is taken from them.
        num_ranks: Each needs a sample of a batch.
    """
    trained = num_samples - int(num_samples * cfg.validation_split)
    batch, epochs = cfg.effective_batch_size, cfg.num_epochs
    steps = num_steps(trained, batch, epochs)
    if steps >= _FEW:
        return None
    smaller = max(num_ranks, trained * epochs // _ENOUGH, 1)
    settings = [f"training.num_epochs={math.ceil(_ENOUGH * epochs / steps)}"] if steps else []
    settings += [f"training.effective_batch_size={smaller}"] if smaller < batch else []
    counted = "1 optimizer step" if steps == 1 else f"{steps} optimizer steps"
    of = f"{trained} sample{'' if trained == 1 else 's'}, training.effective_batch_size={batch}"
    return f"only {counted} in all, of {of}: try {' or '.join(settings)}" if settings else None
