"""How many models of a training lie on the disk at its end, besides the one that it ends with."""

from __future__ import annotations

import math

from sft.config.schema import TrainingConfig
from sft.planning.step_count import length_of


def kept_models(cfg: TrainingConfig, num_trained: int | None = None) -> int | None:
    """Return the most models on the way that stay; None where that takes the number of samples, which is not known.

    Args:
        cfg: The training settings.
        num_trained: Samples of an epoch, those that it validates on left out; None = not known.
    """
    limit, number = cfg.checkpoint_limit, 0
    if num_trained is None and (cfg.save_samples or (cfg.checkpoint_at_epoch and cfg.max_steps is not None)):
        return limit
    length = length_of(cfg, num_trained) if num_trained is not None else None
    if cfg.checkpoint_at_epoch:
        num_epochs = length.num_epochs if length else math.ceil(cfg.num_epochs)
        number += num_epochs - (cfg.select.validated is None)  # the last one's is chosen, or another one is
    if cfg.save_samples and length and num_trained:
        number += ((length.num_epochs - 1) * num_trained + length.rows_of_last) // cfg.save_samples
    return number if limit is None else min(number, limit)
