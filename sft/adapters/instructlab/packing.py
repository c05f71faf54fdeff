"""How much of a training is padding: the library's own packer on the lengths that it will get. A child process:
``python -m sft.adapters.instructlab.packing``."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sft.adapters import child

_MAX_BATCHES = 200


class _Row(msgspec.Struct):
    len: int


def _padding(request: dict[str, Any]) -> Mapping[str, Any]:
    """Child. Request: ``data_file``, ``effective_batch_size``, ``max_tokens``, ``num_ranks``, ``seed``.

    Returns ``num_tokens`` and ``num_padded_tokens`` over at most 200 batches drawn like an epoch's.
    """
    from instructlab.training.padded_batch_packer import batch_lengths_to_minibatches_padded as pack

    decode = msgspec.json.Decoder(_Row).decode
    with Path(request["data_file"]).open("rb") as lines:
        lengths = [decode(line).len for line in lines]
    random.Random(request["seed"]).shuffle(lengths)
    size, num_tokens, num_padded = request["effective_batch_size"], 0, 0
    for begin in range(0, min(len(lengths), _MAX_BATCHES * size), size):
        batch = lengths[begin : begin + size]
        num_tokens += sum(batch)
        for rank in range(request["num_ranks"]):
            for indices in pack(batch, request["max_tokens"], request["num_ranks"], rank):
                if indices != [-1]:
                    num_padded += max(batch[index] for index in indices) * len(indices)
    return {"num_tokens": num_tokens, "num_padded_tokens": num_padded}


if __name__ == "__main__":
    child.main(_padding)
