"""Owns batches under a token budget that shrinks when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Budget:
    """The limits of a batch, which stay from one batch to the next.

    Attributes:
        tokens: Padded tokens of a batch.
        size: Items of a batch; None = as many as `tokens` allow.
        say: Called with a note when they shrink.
    """

    tokens: int
    size: int | None
    say: Callable[[str], None]

    def fits(self, longest: int) -> int:
        """Return the number of items of `longest` tokens that make a batch."""
        return self.size or max(1, self.tokens // longest)

    def halve(self, num_items: int, longest: int) -> None:
        """Shrink the limits because `num_items` were too many."""
        half = num_items // 2
        self.tokens, self.size = half * longest, self.size and half
        self.say(f"out of memory at {num_items} samples of up to {longest} tokens at once; continuing with {half}")


def cut(items: Iterable[T], length: Callable[[T], int], budget: Budget) -> list[list[T]]:
    """Return the batches that `in_batches` works on as long as memory suffices."""
    waiting = sorted(items, key=length, reverse=True)
    batches = []
    while waiting:
        size = budget.fits(length(waiting[0]))
        batches.append(waiting[:size])
        del waiting[:size]
    return batches


def in_batches(
    items: Iterable[T], length: Callable[[T], int], work: Callable[[list[T]], None], budget: Budget
) -> Iterator[list[T]]:
    """Work on one batch after the other, the longest items first, so that memory runs out at once if it does.

    Args:
        items: Items to work on.
        length: Returns the tokens of an item.
        work: Works on a batch; repeated with half of it if memory ran out.
        budget: Limits of a batch, which shrink then.

    Yields:
        Each batch that is done.

    Raises:
        Exception: The error of `work`; running out of memory only if one item alone is too large.
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
    """Return whether torch ran out of memory, on a GPU or on the host, which only the message says."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def free_memory() -> None:
    """Free the memory of a failed batch."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
