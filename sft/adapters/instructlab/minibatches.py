"""How a batch becomes each rank's minibatches where samples are padded, in the place of the library's packer.

The library (padded_batch_packer.py@0.16.2) fills minibatches up to the token budget, long samples first, which pads
short ones to the length of long ones, and gives ranks unequal numbers, so that they wait for each other forever
(trap 11). Here the batch is divided where that costs least, and every rank gets as many. Can go when upstream does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

LENGTHS = 32
"""Padded lengths are multiples of this, as far as the token budget allows. A CPU compiles a bf16 matrix product for
each shape that it has not met, which cost a sixth of a training; and a GPU's tensor cores like multiples."""
OVERHEAD = 350
"""What a minibatch costs beyond its tokens, in tokens: FSDP casts and reduces every parameter for each, work that grows
with a model as a token's does. From the step times of token budgets 1024, 2048 and 4096 on a CPU; by arithmetic a GPU's
bandwidth and speed come to about as much; not measured."""
NOTHING = [-1]
"""The library's minibatch of a dummy sample, which has no loss token."""

NO_TARGET = -100
"""The label of a token that does not count."""

Minibatch = dict[str, Any]


@contextmanager
def divided(max_tokens: int) -> Iterator[None]:
    """Replaces the library's packer and collation of padded minibatches until the block ends.

    Args:
        max_tokens: Budget of a minibatch, padding included.
    """
    from instructlab.training import sampler

    with (
        mock.patch.object(sampler, "batch_lengths_to_minibatches_padded", pack),
        mock.patch.object(sampler, "padded_mb_collate_fn", padding_to(max_tokens, sampler.padded_mb_collate_fn)),
    ):
        yield


def padded_length(num_tokens: int, max_tokens: int) -> int:
    """Length to which a minibatch is padded whose longest sample has `num_tokens`, at most its budget `max_tokens`."""
    return max(num_tokens, min(-(-num_tokens // LENGTHS) * LENGTHS, max_tokens))


def pack(
    lengths: Sequence[int], max_tokens: int, num_ranks: int, rank: int, max_batch_size: int = 64
) -> list[list[int]]:
    """A rank's minibatches, in the library's signature.

    Args:
        lengths: Of a batch's samples, in tokens, each at most `max_tokens`.
        max_tokens: Budget of a minibatch, padding included.
        num_ranks: Every one of them gets as many minibatches, and at each turn all get about equally large ones.
        rank: Whose.
        max_batch_size: Samples of a minibatch at most.

    Returns:
        Indices into `lengths`; `NOTHING` where there is none left for this rank.
    """
    found = division(lengths, max_tokens, num_ranks, max_batch_size)
    mine = found[rank::num_ranks]
    return mine + [NOTHING] * (-(-len(found) // num_ranks) - len(mine))


def division(lengths: Sequence[int], max_tokens: int, num_ranks: int, max_samples: int = 64) -> list[list[int]]:
    """All ranks' minibatches, large ones first, and in each the longest sample first. Arguments as of `pack`.

    There are a multiple of `num_ranks`, as long as one can be halved.
    """

    def size(minibatch: list[int]) -> int:
        return num_padded(minibatch, lengths, max_tokens)

    found = _cheapest(lengths, max_tokens, max_samples)
    while len(found) % num_ranks and (several := [minibatch for minibatch in found if len(minibatch) > 1]):
        largest = max(several, key=size)
        found.remove(largest)
        found += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
    return sorted(found, key=size, reverse=True)


def num_padded(minibatch: Sequence[int], lengths: Sequence[int], max_tokens: int) -> int:
    """Tokens of one of `division`'s minibatches, padding included."""
    return padded_length(lengths[minibatch[0]], max_tokens) * len(minibatch)


def _cheapest(lengths: Sequence[int], max_tokens: int, max_samples: int) -> list[list[int]]:
    """The division with the least padding and `OVERHEAD` on one rank.

    Some cheapest division takes the samples in the order of their length, so only its cuts are sought, by dynamic
    programming: at most len(lengths) x max_samples steps.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    padded = [padded_length(lengths[index], max_tokens) for index in order]
    costs, begins = [0], [0]  # of the cheapest division of the first so many, and where its last minibatch begins
    for end in range(1, len(order) + 1):
        choices = []
        for begin in range(end - 1, max(-1, end - 1 - max_samples), -1):
            size = padded[begin] * (end - begin)
            if size > max_tokens:
                break
            choices.append((costs[begin] + size + OVERHEAD, begin))
        cost, begin = min(choices)
        costs.append(cost)
        begins.append(begin)
    found, end = [], len(order)
    while end:
        found.append(order[begins[end] : end])
        end = begins[end]
    return found


def padding_to(max_tokens: int, collate: Callable[..., Minibatch]) -> Callable[..., Minibatch]:
    """The library's collation of a minibatch, padded further on the right, up to `padded_length`."""

    def collate_padded(samples: list[Minibatch], num_counted: int, pad_token_id: int = 0) -> Minibatch:
        from torch.nn.functional import pad

        minibatch = collate(samples, num_counted, pad_token_id)
        num_rows, length = minibatch["input_ids"].shape
        more = padded_length(length, max_tokens) - length
        for name, value in (("input_ids", pad_token_id), ("labels", NO_TARGET), ("attention_mask", 0)):
            minibatch[name] = pad(minibatch[name], (0, more), value=value)
        return {**minibatch, "total_length": num_rows * (length + more)}

    return collate_padded
