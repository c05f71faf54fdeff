"""Owns the data loader of the library's loop: its order, where it starts after a resume, a hook between two batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any


def resuming_sampler(
    epoch_sampler: type, num_seen: Callable[[], int], num_wanted: Callable[[int], int | None] = lambda _: None
) -> type:
    """Return the library's `EpochSampler` without the samples that were seen before the resume; none is collated.

    Its order is of its seed and epoch alone. Upstream adds the two (sampler.py:46@0.16.2), so that the second epoch of
    seed 1 has the order of the first one of seed 2.

    Args:
        epoch_sampler: The library's class.
        num_seen: Returns the number of samples of the current epoch that were seen already.
        num_wanted: Returns how many samples of an epoch are trained; None = all of them.
    """

    class ResumingSampler(epoch_sampler):  # type: ignore[misc]
        def generate_samples(self) -> list[int]:
            import torch

            generator = torch.Generator().manual_seed(order_seed(self.seed, self.epoch))
            order: list[int] = torch.randperm(self.len_data, generator=generator).tolist()
            return order

        def __iter__(self) -> Iterator[int]:
            return iter(self.generate_samples()[num_seen() : num_wanted(self.epoch)])

    return ResumingSampler


def order_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch's order: the training's own in the first one, 63 bits of a digest afterwards."""
    if epoch == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}".encode()).digest()[:8], "big") >> 1


class BatchHook:
    """A loader that calls `after` after the step on each batch, before the next batch is loaded."""

    def __init__(self, loader: Any, after: Callable[[], None]) -> None:
        self._loader = loader
        self._after = after
        self.sampler, self.dataset = loader.sampler, loader.dataset

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        import torch

        # torch draws the seed of the loader workers from the random state that dropout uses. A run that resumes within
        # an epoch creates a loader at another moment, and would draw different numbers from then on.
        with torch.random.fork_rng(devices=()):
            batches = iter(self._loader)
        for batch in batches:
            yield batch
            self._after()

    def __deepcopy__(self, _memo: object) -> BatchHook:
        return self  # upstream copies loader and dataset for accelerate, and discards the copy (accelerator.py:138)
