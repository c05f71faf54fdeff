"""How much of a training is padding: the packer on the lengths that it will get. A child process:
``python -m sft.adapters.instructlab.packing``."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sft.adapters import child
from sft.adapters.instructlab.minibatches import NOTHING, pack, padded_length

_MAX_BATCHES = 200


class _Row(msgspec.Struct):
    len: int


def _padding(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child. Request: ``data_file``, ``effective_batch_size``, ``max_tokens``, ``num_ranks``, ``seed``.

    Returns ``num_tokens`` and ``num_padded_tokens`` over at most 200 batches drawn like an epoch's.
    """
    decode = msgspec.json.Decoder(_Row).decode
    with Path(request["data_file"]).open("rb") as lines:
        lengths = [decode(line).len for line in lines]
    random.Random(request["seed"]).shuffle(lengths)
    size, budget, num_tokens, num_padded = request["effective_batch_size"], request["max_tokens"], 0, 0
    for begin in range(0, min(len(lengths), _MAX_BATCHES * size), size):
        batch = lengths[begin : begin + size]
        num_tokens += sum(batch)
        for rank in range(request["num_ranks"]):
            for indices in pack(batch, budget, request["num_ranks"], rank):
                if indices != NOTHING:
                    num_padded += padded_length(batch[indices[0]], budget) * len(indices)
    return {"num_tokens": num_tokens, "num_padded_tokens": num_padded}


if __name__ == "__main__":
    child.main(_padding)
