"""How much of a training will be padding: the lengths that it will get, divided as it divides them."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from sft.adapters.instructlab.minibatches import division, num_padded

_MAX_BATCHES = 200


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
