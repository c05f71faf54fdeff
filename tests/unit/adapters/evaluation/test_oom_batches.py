"""Batches that shrink when memory runs out, and hold nothing of the try that failed."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from sft.adapters.evaluation.oom_batches import Budget, cut, in_batches

pytestmark = pytest.mark.slow


class Work:
    """Work that a batch of more than `most` is too much for, in a frame that holds tensors.

    Attributes:
        alive: How many tensors of failed tries were alive when each batch began.
    """

    def __init__(self, most: int, error: type[RuntimeError], message: str = "no memory") -> None:
        self.most, self.error, self.message = most, error, message
        self.sizes: list[int] = []
        self.alive: list[int] = []
        self._tensors: list[weakref.ref[Any]] = []

    def __call__(self, batch: list[int]) -> None:
        import torch

        self.alive.append(sum(tensor() is not None for tensor in self._tensors))
        logits = torch.zeros(len(batch), 1000)
        self._tensors.append(weakref.ref(logits))
        self._deeper(batch, logits)
        self.sizes.append(len(batch))

    def _deeper(self, batch: list[int], logits: Any) -> None:
        softmax = logits.softmax(dim=-1)
        self._tensors.append(weakref.ref(softmax))
        if len(batch) > self.most:
            cycle: list[Any] = [softmax]
            cycle.append(cycle)  # as frames of a library make: only the collector frees it
            raise self.error(self.message)


def budget(notes: list[str], size: int | None = None) -> Budget:
    return Budget(tokens=80, size=size, say=notes.append)


@pytest.mark.long
@pytest.mark.parametrize("size", [None, 8])
def test_a_failed_try_has_left_no_tensor_when_the_next_one_begins(size: int | None) -> None:
    import torch

    notes: list[str] = []
    work = Work(2, torch.OutOfMemoryError)
    done = list(in_batches(range(1, 11), lambda _: 10, work, budget(notes, size)))
    assert work.alive == [0] * len(work.alive)
    assert work.sizes == [2] * 5
    assert sorted(item for batch in done for item in batch) == list(range(1, 11))
    assert [note.rpartition(" ")[2] for note in notes] == ["4", "2"]


def test_the_hosts_allocator_is_understood_and_another_error_is_not_memory() -> None:
    said = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"
    work = Work(1, RuntimeError, said)
    assert len(list(in_batches(range(4), lambda _: 10, work, budget([])))) == 4
    with pytest.raises(RuntimeError, match="shapes"):
        list(in_batches(range(4), lambda _: 10, Work(1, RuntimeError, "shapes do not fit"), budget([])))


def test_one_item_that_is_too_large_fails() -> None:
    import torch

    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches(range(4), lambda _: 10, Work(0, torch.OutOfMemoryError), budget([])))


def test_the_longest_come_first_and_a_batch_is_bounded_by_its_padded_tokens() -> None:
    lengths = [7, 40, 3, 30, 20, 80]
    batches = list(in_batches(lengths, lambda length: length, lambda _: None, budget([])))
    assert batches == [[80], [40, 30], [20, 7, 3]]
    assert cut(lengths, lambda length: length, budget([])) == batches
