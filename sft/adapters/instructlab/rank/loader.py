"""The loader that the library's loop iterates: where it begins after a resume, and what runs between two batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def resuming(epoch_sampler: type, num_seen: Callable[[], int]) -> type:
    """The library's `EpochSampler`, leaving out what was seen before the state that was loaded, without collating it.

    Args:
        epoch_sampler: The library's class; its order depends on seed and epoch alone.
        num_seen: Samples of the epoch at work that were seen already.
    """

    class ResumingSampler(epoch_sampler):  # type: ignore[misc]
        def __iter__(self) -> Iterator[int]:
            return iter(list(super().__iter__())[num_seen() :])

    return ResumingSampler


class BatchHook:
    """A loader that calls `after` between the step on one batch and the next batch, and after the last."""

    def __init__(self, loader: Any, after: Callable[[], None]) -> None:
        self._loader = loader
        self._after = after
        self.sampler, self.dataset = loader.sampler, loader.dataset

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        import torch

        # torch draws the loader workers' seed from the random state that dropout uses too; a run that resumes in the
        # middle of an epoch makes a loader at another moment, and would draw differently ever after.
        with torch.random.fork_rng(devices=()):
            batches = iter(self._loader)
        for batch in batches:
            yield batch
            self._after()

    def __deepcopy__(self, _memo: object) -> BatchHook:
        return self  # upstream copies loader and dataset for accelerate and drops the copy (accelerator.py:138)


def num_tokens(minibatch: dict[str, Any]) -> int:
    """Tokens of a minibatch without its padding."""
    mask = minibatch.get("attention_mask")
    return int(minibatch["input_ids"].numel() if mask is None else mask.sum())
