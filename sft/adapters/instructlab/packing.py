"""How much of a training will be padding: the lengths that it will get, divided as it divides them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

LENGTHS = 32
"""Padded lengths are multiples of this, as far as the token budget allows. A CPU compiles a bf16 matrix product for
each shape that it has not met, which cost a sixth of a training; and a GPU's tensor cores like multiples."""
OVERHEAD = 350
"""What a minibatch costs beyond its tokens, in tokens: FSDP casts and reduces every parameter for each, work that grows
with a model as a token's does. From the step times of token budgets 1024, 2048 and 4096 on a CPU; by arithmetic a GPU's
bandwidth and speed come to about as much; not measured."""
NOTHING = [-1]
"""The library's minibatch of a dummy sample, which has no loss token."""
_MAX_BATCHES = 200


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


class _Row(msgspec.Struct):
    len: int


def padding_share(data_file: Path, *, batch_size: int, max_tokens: int, num_ranks: int, seed: int) -> float:
    """Share of what is computed that is padding, over at most 200 batches drawn like an epoch's.

    Args:
        data_file: JSON Lines with a ``len`` in tokens, at least one row.
        batch_size: Samples per optimizer step.
        max_tokens: Budget of a minibatch, padding included.
        num_ranks: Those that share a batch.
        seed: Of the order of samples.
    """
    decode = msgspec.json.Decoder(_Row).decode
    with data_file.open("rb") as lines:
        lengths = [decode(line).len for line in lines]
    random.Random(seed).shuffle(lengths)
    num_tokens = num_computed = 0
    for begin in range(0, min(len(lengths), _MAX_BATCHES * batch_size), batch_size):
        batch = lengths[begin : begin + batch_size]
        num_tokens += sum(batch)
        num_computed += sum(num_padded(found, batch, max_tokens) for found in division(batch, max_tokens, num_ranks))
    return 1 - num_tokens / num_computed
