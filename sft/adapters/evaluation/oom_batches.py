"""Batches under a token budget that gets smaller when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Budget:
    """What goes into a batch; remembered from one batch to the next.

    Attributes:
        tokens: Padded tokens of a batch.
        size: Items of a batch; None = as many as `tokens` allow.
        say: Told when it got smaller.
    """

    tokens: int
    size: int | None
    say: Callable[[str], None]

    def fits(self, longest: int) -> int:
        """Items of `longest` tokens that make a batch."""
        return self.size or max(1, self.tokens // longest)

    def halve(self, num_items: int, longest: int) -> None:
        """So many were too many."""
        half = num_items // 2
        self.tokens, self.size = half * longest, self.size and half
        self.say(f"out of memory at {num_items} samples of up to {longest} tokens at once; goes on with {half}")


def in_batches(
    items: Iterable[T], length: Callable[[T], int], work: Callable[[list[T]], None], budget: Budget
) -> Iterator[list[T]]:
    """Does `work` batch by batch, the longest items first, so that running out of memory shows at once.

    Args:
        items: What is to be worked on.
        length: Tokens of an item.
        work: Done again with half of a batch where memory ran out.
        budget: Made smaller then.

    Yields:
        Each batch that is done.

    Raises:
        Exception: What `work` raises; running out of memory only where one item alone is too much.
    """
    waiting = sorted(items, key=length, reverse=True)
    while waiting:
        longest = length(waiting[0])
        batch = waiting[: budget.fits(longest)]
        try:
            work(batch)
        except RuntimeError as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
        else:
            del waiting[: len(batch)]
            yield batch
            continue
        free_memory()
        budget.halve(len(batch), longest)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch had no memory left, on a GPU or on the host, where it says so only in words."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def free_memory() -> None:
    """Gives back what a failed batch held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
