"""Owns how a batch is divided into packed rows: one row of samples per minibatch, equal work for every rank."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

from sft.adapters.instructlab.packing import NOTHING

ROW_LENGTHS = 16
"""Rows are filled up to a multiple of this, as far as the token budget allows: a CPU compiles a bf16 matrix product for
each new shape, and a GPU's tensor cores want multiples of 8."""
DUMMY_LENGTH = 5
"""Tokens of the library's dummy sample, which a rank computes where it has `NOTHING` (sampler.py:238@0.16.2)."""


def pack_rows(
    lengths: Sequence[int], token_budget: int, num_ranks: int, rank: int, *, attention_cost: float = 0.0
) -> list[list[int]]:
    """Return a rank's minibatches of one packed row each, with the signature of the library's function.

    Args:
        lengths: Lengths of a batch's samples in tokens, each at most `token_budget`.
        token_budget: Budget of a row, padding at its end included.
        num_ranks: Number of ranks. All get the same number of rows, and rows of about equal cost at the same time.
        rank: Index of the rank.
        attention_cost: As `cost` takes it.

    Returns:
        Indices into `lengths`, in each row the longest sample first; `NOTHING` if no row is left for this rank.
    """
    rows = divide_rows(lengths, token_budget, num_ranks, attention_cost=attention_cost)
    return [row or NOTHING for row in rows[rank::num_ranks]]


def divide_rows(
    lengths: Sequence[int], token_budget: int, num_ranks: int, *, attention_cost: float = 0.0
) -> list[list[int]]:
    """Return all ranks' rows, dearest first: as few as can be found, and as many for each rank.

    Arguments as of `pack_rows`. Samples go, longest first, to the row that costs least so far and has room (longest
    processing time, Graham 1969: the dearest row costs at most 4/3 of what it must). If one finds no room, to the
    fullest row that has (best fit decreasing), which needs fewer rows where the budget is tight; and if that fails,
    too, every rank gets a row more.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    costs = [cost(length, attention_cost) for length in lengths]
    per_rank = -(-sum(lengths) // (token_budget * num_ranks))
    while True:
        num_rows = per_rank * num_ranks
        rows = _by_cost(order, lengths, costs, token_budget, num_rows) or _by_room(
            order, lengths, token_budget, num_rows
        )
        if rows is not None:
            return sorted(rows, key=lambda row: sum(costs[index] for index in row), reverse=True)
        per_rank += 1


def cost(length: int, attention_cost: float) -> float:
    """Return what a sample costs, in tokens of the layers' matrices: ``length + attention_cost * length ** 2``.

    Args:
        length: Its tokens.
        attention_cost: FLOPs of attention for a pair of tokens by the FLOPs of the matrices for a token:
            `sft.planning.flops.attention_cost`.
    """
    return length + attention_cost * length * length


def row_length(num_tokens: int, token_budget: int, context_parallel: int = 1) -> int:
    """Return the tokens of a row, padding included: at most the budget.

    Args:
        num_tokens: Those of its samples.
        token_budget: Of the row; a multiple of `context_parallel`.
        context_parallel: Ranks that share the row: each gets as many tokens.
    """
    multiple = ROW_LENGTHS * context_parallel
    return max(num_tokens, min(-(-num_tokens // multiple) * multiple, token_budget))


def num_computed(row: Iterable[int], lengths: Sequence[int], token_budget: int, context_parallel: int = 1) -> int:
    """Return the tokens of one of `divide_rows`'s rows, padding included, and of a dummy where there is no sample."""
    return row_length(sum(lengths[index] for index in row) or DUMMY_LENGTH, token_budget, context_parallel)


def head_repeats(num_key_heads: int, context_parallel: int) -> int:
    """Return how often each key head is there if each of the ranks that share a row gets as many of them."""
    return context_parallel // math.gcd(num_key_heads, context_parallel)


def _by_cost(
    order: Sequence[int], lengths: Sequence[int], costs: Sequence[float], token_budget: int, num_rows: int
) -> list[list[int]] | None:
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    room = [token_budget] * num_rows
    cheapest = [(0.0, row) for row in range(num_rows)]
    for index in order:
        full = []
        while cheapest and room[cheapest[0][1]] < lengths[index]:
            full.append(heapq.heappop(cheapest))
        if not cheapest:
            return None
        before, row = cheapest[0]
        rows[row].append(index)
        room[row] -= lengths[index]
        heapq.heapreplace(cheapest, (before + costs[index], row))
        for each in full:
            heapq.heappush(cheapest, each)
    return rows


def _by_room(order: Sequence[int], lengths: Sequence[int], token_budget: int, num_rows: int) -> list[list[int]] | None:
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    room = [token_budget] * num_rows
    for index in order:
        fitting = [row for row in range(num_rows) if room[row] >= lengths[index]]
        if not fitting:
            return None
        row = min(fitting, key=room.__getitem__)
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows
