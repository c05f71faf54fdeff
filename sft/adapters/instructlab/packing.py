"""Owns how a batch is divided into padded minibatches, where a model's samples can't share a row."""

from __future__ import annotations

from collections.abc import Sequence

LENGTHS = 32
"""Padded lengths are multiples of this, as far as the token budget allows. A CPU compiles a bf16 matrix product for
each new shape, which cost a sixth of a training; and a GPU's tensor cores are faster with multiples."""
OVERHEAD = 350
"""Cost of a minibatch beyond its tokens, in tokens: FSDP casts and reduces every parameter for each minibatch, which
grows with the model as the work of a token does. From the step times of token budgets 1024, 2048 and 4096 on a CPU; a
GPU's bandwidth and speed suggest about as much, which was not measured."""
NOTHING = [-1]
"""The library's minibatch of a dummy sample, which has no loss token."""


def padded_length(num_tokens: int, token_budget: int) -> int:
    """Return the length to which a minibatch is padded if its longest sample has `num_tokens`: at most the budget."""
    return max(num_tokens, min(-(-num_tokens // LENGTHS) * LENGTHS, token_budget))


def pack(
    lengths: Sequence[int], token_budget: int, num_ranks: int, rank: int, max_batch_size: int = 64
) -> list[list[int]]:
    """Return a rank's minibatches, with the signature of the library's function.

    Args:
        lengths: Lengths of a batch's samples in tokens, each at most `token_budget`.
        token_budget: Budget of a minibatch, padding included.
        num_ranks: Number of ranks. All get the same number of minibatches, and minibatches of about equal size at the
            same time.
        rank: Index of the rank.
        max_batch_size: Largest number of samples of a minibatch.

    Returns:
        Indices into `lengths`; `NOTHING` if no minibatch is left for this rank.
    """
    minibatches = divide(lengths, token_budget, num_ranks, max_batch_size)
    own = minibatches[rank::num_ranks]
    return own + [NOTHING] * (-(-len(minibatches) // num_ranks) - len(own))


def divide(lengths: Sequence[int], token_budget: int, num_ranks: int, max_samples: int = 64) -> list[list[int]]:
    """Return all ranks' minibatches, largest first, each with its longest sample first. Arguments as of `pack`.

    Their number is a multiple of `num_ranks`, unless every minibatch has only one sample.
    """

    def size(minibatch: list[int]) -> int:
        return num_padded(minibatch, lengths, token_budget)

    minibatches = _divide_cheapest(lengths, token_budget, max_samples)
    while len(minibatches) % num_ranks and (divisible := [each for each in minibatches if len(each) > 1]):
        largest = max(divisible, key=size)
        minibatches.remove(largest)
        minibatches += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
    return sorted(minibatches, key=size, reverse=True)


def num_padded(minibatch: Sequence[int], lengths: Sequence[int], token_budget: int) -> int:
    """Return the tokens of one of `divide`'s minibatches, padding included."""
    return padded_length(lengths[minibatch[0]], token_budget) * len(minibatch)


def _divide_cheapest(lengths: Sequence[int], token_budget: int, max_samples: int) -> list[list[int]]:
    """Return the minibatches with the least padding plus `OVERHEAD`, for one rank.

    One of the cheapest divisions takes the samples in the order of their length, so only the cuts are searched, by
    dynamic programming: at most len(lengths) x max_samples steps.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    padded = [padded_length(lengths[index], token_budget) for index in order]
    costs, begins = [0], [0]  # of the cheapest division of the first samples; where its last minibatch begins
    for end in range(1, len(order) + 1):
        choices = []
        for begin in range(end - 1, max(-1, end - 1 - max_samples), -1):
            size = padded[begin] * (end - begin)
            if size > token_budget:
                break
            choices.append((costs[begin] + size + OVERHEAD, begin))
        cost, begin = min(choices)
        costs.append(cost)
        begins.append(begin)
    minibatches, end = [], len(order)
    while end:
        minibatches.append(order[begins[end] : end])
        end = begins[end]
    return minibatches
