"""Owns what is validated while a training goes on: a part of its samples, and held-out sets, each by itself.

The library validates one split of the training data (main_ds.py:388@0.16.2). Here sets that were never part of it have
a loader each, which divides their samples among the ranks as that of the training does, and the same loss. What is
validated changes nothing of the training: no random number that dropout draws, and no minibatch.
"""

from __future__ import annotations

import time
from typing import Any

from sft.adapters.instructlab.rank import loss
from sft.adapters.instructlab.rank.minibatches import patched_packers
from sft.adapters.instructlab.settings import WorkerOptions


class Validation:
    """What is validated by all ranks together.

    Args:
        options: Settings that the library lacks.
        training: The library's loader of the training, as whose samples those of sets are divided and packed.
        split: The library's loader of a part of the training's samples; None = there is none.

    Attributes:
        sets: The loader of each held-out set, by its name.
    """

    def __init__(self, options: WorkerOptions, training: Any, split: Any) -> None:
        self.split = split
        self.sets = {name: _loader(file, options, training) for name, file in options.validation_sets.items()}

    def __bool__(self) -> bool:
        """Return whether anything is validated."""
        return self.split is not None or bool(self.sets)

    @property
    def num_split_samples(self) -> int:
        """Samples of the training's data that are validated and not trained."""
        return 0 if self.split is None else len(self.split.dataset)

    def measure(self, model: Any, device: Any) -> dict[str, Any]:
        """Return the mean losses over loss tokens, numbers of these, and seconds, as fields of ``metrics.jsonl``.

        Args:
            model: The library's model; it is in training mode afterwards.
            device: Its device.
        """
        from instructlab.training import main_ds

        row: dict[str, Any] = {}
        began = time.perf_counter()
        if self.split is not None:
            losses = main_ds.compute_validation_loss(model, self.split, device)
            row = {"validation_loss": losses.pop("val_loss"), "num_validation_tokens": losses.pop("val_num_tokens")}
            row |= losses
        sums, counts = 0.0, 0
        for name, loader in self.sets.items():
            summed, count = loss.summed_losses(model, loader, device)[:2].tolist()
            row |= {f"validation_loss.{name}": summed / count, f"num_validation_tokens.{name}": int(count)}
            sums, counts = sums + summed, counts + int(count)
        if self.split is None:
            row |= {"validation_loss": sums / counts, "num_validation_tokens": counts}
        return {**row, "validation_seconds": time.perf_counter() - began}


def _loader(file: str, options: WorkerOptions, training: Any) -> Any:
    """Return a loader of labelled samples in their order; of one that has no room in a minibatch, it alone is one."""
    import torch
    from instructlab.training import sampler
    from torch.utils.data import DataLoader

    dataset, ours = sampler.TokenDataset(file), training.collate_fn
    size = options.context_parallel
    longest = -(-int(dataset.get_lengths().max()) // size) * size
    budget = max(ours.max_tokens_per_rank, longest)
    with patched_packers(budget, attention_cost=options.attention_cost, context_parallel=size):
        collate = sampler.MaxTokensPerRankCollator(
            budget,
            rank=ours.global_rank,  # with rows that ranks share, that of the row
            world_size=ours.world_size,
            dummy_sample=ours.dummy_sample,
            flash_enabled=ours.flash_enabled,
            pad_token_id=ours.pad_token_id,
        )
    return DataLoader(
        dataset,
        training.batch_size,
        collate_fn=collate,
        num_workers=training.num_workers,
        persistent_workers=training.num_workers > 0,
        generator=torch.Generator(),  # else it draws a seed from the random state that dropout uses
    )
