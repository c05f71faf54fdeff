"""Owns packing padded samples into minibatches, in place of the library's packer.

The library (padded_batch_packer.py@0.16.2) fills minibatches up to the token budget, long samples first, which pads
short ones to the length of long ones. It gives ranks unequal numbers, so that they wait for each other forever (trap
11). Here the batch is divided so that it costs least, and every rank gets the same number. It can be removed when
upstream does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sft.adapters.instructlab.packing import pack, padded_length
from sft.adapters.patched import patched

NO_TARGET = -100
"""Label of a token that does not enter the loss."""

Minibatch = dict[str, Any]


@contextmanager
def patched_packer(token_budget: int) -> Iterator[None]:
    """Replace the library's packer and collation of padded minibatches, until the block ends.

    Args:
        token_budget: Budget of a minibatch, padding included.
    """
    from instructlab.training import sampler

    with patched(
        (sampler, "batch_lengths_to_minibatches_padded", pack),
        (sampler, "padded_mb_collate_fn", collate_to_padded_length(token_budget, sampler.padded_mb_collate_fn)),
    ):
        yield


def collate_to_padded_length(token_budget: int, collate: Callable[..., Minibatch]) -> Callable[..., Minibatch]:
    """Return the library's collation of a minibatch, with more padding on the right, up to `padded_length`."""

    def collate_padded(samples: list[Minibatch], num_counted: int, pad_token_id: int = 0) -> Minibatch:
        from torch.nn.functional import pad

        minibatch = collate(samples, num_counted, pad_token_id)
        num_rows, length = minibatch["input_ids"].shape
        num_padding = padded_length(length, token_budget) - length
        for name, value in (("input_ids", pad_token_id), ("labels", NO_TARGET), ("attention_mask", 0)):
            minibatch[name] = pad(minibatch[name], (0, num_padding), value=value)
        return {**minibatch, "total_length": num_rows * (length + num_padding)}

    return collate_padded
