"""Owns how much of a training will be padding, foretold from the samples' lengths."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from sft.adapters.instructlab.packed_rows import divide_rows, num_computed
from sft.adapters.instructlab.packing import divide, num_padded

_MAX_BATCHES = 200


class _Row(msgspec.Struct):
    len: int


def padding_share(
    data_file: Path,
    *,
    batch_size: int,
    token_budget: int,
    num_ranks: int,
    seed: int,
    packs_rows: bool,
    attention_cost: float = 0.0,
    context_parallel: int = 1,
) -> float:
    """Return the share of computed tokens that is padding, over at most 200 batches drawn as in an epoch.

    Args:
        data_file: JSON Lines with a ``len`` in tokens, at least one row.
        batch_size: Samples per optimizer step.
        token_budget: Budget of a minibatch, padding included.
        num_ranks: Ranks that share a batch; of those that share rows one counts.
        seed: Seed of the order of samples.
        packs_rows: Whether a minibatch is one row of samples.
        attention_cost: As `packed_rows.cost` takes it.
        context_parallel: Ranks that share a row.
    """
    decode = msgspec.json.Decoder(_Row).decode
    with data_file.open("rb") as lines:
        lengths = [decode(line).len for line in lines]
    random.Random(seed).shuffle(lengths)
    num_tokens = computed = 0
    for begin in range(0, min(len(lengths), _MAX_BATCHES * batch_size), batch_size):
        batch = lengths[begin : begin + batch_size]
        num_tokens += sum(batch)
        if packs_rows:
            rows = divide_rows(batch, token_budget, num_ranks, attention_cost=attention_cost)
            computed += sum(num_computed(row, batch, token_budget, context_parallel) for row in rows)
        else:
            minibatches = divide(batch, token_budget, num_ranks)
            computed += sum(num_padded(minibatch, batch, token_budget) for minibatch in minibatches)
    return 1 - num_tokens / computed
