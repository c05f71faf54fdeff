"""Owns the data loader of the library's loop: where it starts after a resume, and a hook between two batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def resuming_sampler(epoch_sampler: type, num_seen: Callable[[], int]) -> type:
    """Return the library's `EpochSampler` without the samples that were seen before the resume; none is collated.

    Args:
        epoch_sampler: The library's class, whose order depends only on seed and epoch.
        num_seen: Returns the number of samples of the current epoch that were seen already.
    """

    class ResumingSampler(epoch_sampler):  # type: ignore[misc]
        def __iter__(self) -> Iterator[int]:
            return iter(list(super().__iter__())[num_seen() :])

    return ResumingSampler


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
