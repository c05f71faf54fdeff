"""How a batch becomes each rank's minibatches where samples are padded, in the place of the library's packer.

The library (padded_batch_packer.py@0.16.2) fills minibatches up to the token budget, long samples first, which pads
short ones to the length of long ones, and gives ranks unequal numbers, so that they wait for each other forever
(trap 11). Here the batch is divided where that costs least, and every rank gets as many. Can go when upstream does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sft.adapters.instructlab.packing import pack, padded_length
from sft.adapters.patched import patched

NO_TARGET = -100
"""The label of a token that does not count."""

Minibatch = dict[str, Any]


@contextmanager
def patched_packer(max_tokens: int) -> Iterator[None]:
    """Replaces the library's packer and collation of padded minibatches until the block ends.

    Args:
        max_tokens: Budget of a minibatch, padding included.
    """
    from instructlab.training import sampler

    with patched(
        (sampler, "batch_lengths_to_minibatches_padded", pack),
        (sampler, "padded_mb_collate_fn", padding_to(max_tokens, sampler.padded_mb_collate_fn)),
    ):
        yield


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
