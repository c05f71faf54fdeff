"""Owns what a minibatch is made of: one packed row of samples, or padded samples, in place of the library's packers.

Of packed rows, the library (batch_packer.py@0.16.2) fills each rank's up to the token budget while samples last, so the
last ones hold little, and balances tokens, although attention's work grows with their square; and each layer looks for
the bounds of samples in their positions, which waits for the device. Of padded samples (padded_batch_packer.py) it
fills minibatches up to the token budget, long samples first, which pads short ones to the length of long ones, and
gives ranks unequal numbers, so that they wait for each other forever (trap 11). Here every rank gets the same number of
minibatches, of about equal cost, and bounds come along. It can be removed when upstream does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sft.adapters.instructlab.packed_rows import pack_rows, row_length
from sft.adapters.instructlab.packing import pack, padded_length
from sft.adapters.instructlab.rank.by_source import of_samples
from sft.adapters.patched import patched

NO_TARGET = -100
"""Label of a token that does not enter the loss."""

Minibatch = dict[str, Any]


@contextmanager
def patched_packers(token_budget: int, *, attention_cost: float = 0.0, context_parallel: int = 1) -> Iterator[None]:
    """Replace the library's packers and collations, until the block ends.

    Args:
        token_budget: Budget of a minibatch, padding included.
        attention_cost: As `packed_rows.cost` takes it.
        context_parallel: Ranks that share a row.
    """
    from instructlab.training import sampler

    with patched(
        (sampler, "batch_lengths_to_minibatches_lpt", partial(pack_rows, attention_cost=attention_cost)),
        (sampler, "mb_collate_fn", partial(collate_row, token_budget=token_budget, context_parallel=context_parallel)),
        (sampler, "batch_lengths_to_minibatches_padded", pack),
        (sampler, "padded_mb_collate_fn", collate_to_padded_length(token_budget, sampler.padded_mb_collate_fn)),
    ):
        yield


def collate_row(
    samples: list[Minibatch], num_counted: int, *, token_budget: int, context_parallel: int = 1
) -> Minibatch:
    """Return samples as one row, filled up to `row_length`, for any attention that takes the bounds of samples.

    Args:
        samples: Each with ``input_ids``, ``labels`` and ``num_loss_counted_tokens``.
        num_counted: Loss tokens of the whole batch.
        token_budget: Budget of the row.
        context_parallel: Ranks that share the row.

    Returns:
        ``input_ids``, ``labels`` and ``position_ids``, which begin at 0 with each sample, of shape (1, tokens);
        ``sample_lengths``, where what fills the row is a sample of its own, so that no kernel leaves its output
        unwritten; ``cu_seq_lens_q`` and ``cu_seq_lens_k``, the bounds of samples in int32; `_counts`; and what the
        library's collation says.
    """
    import torch

    lengths = [len(sample["input_ids"]) for sample in samples]
    total = row_length(sum(lengths), token_budget, context_parallel)
    num_padding = total - sum(lengths)
    ids, labels = (
        torch.cat([torch.as_tensor(sample[name], dtype=torch.long) for sample in samples])
        for name in ("input_ids", "labels")
    )
    filled = lengths + [num_padding] * (num_padding > 0)
    bounds = torch.tensor([0, *filled], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return {
        "input_ids": torch.nn.functional.pad(ids, (0, num_padding))[None],
        "labels": torch.nn.functional.pad(labels, (0, num_padding), value=NO_TARGET)[None],
        "position_ids": torch.cat([torch.arange(length) for length in filled])[None],
        "sample_lengths": filled,
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        **_counts(samples),
        **of_samples(samples),
        "num_loss_counted_tokens": sum(sample["num_loss_counted_tokens"] for sample in samples),
        "num_samples": sum(sample["num_loss_counted_tokens"] > 0 for sample in samples),
        "batch_num_loss_counted_tokens": num_counted,
        "total_length": total,
    }


def collate_to_padded_length(token_budget: int, collate: Callable[..., Minibatch]) -> Callable[..., Minibatch]:
    """Return the library's collation of a minibatch, with more padding on the right, up to `padded_length`."""

    def collate_padded(samples: list[Minibatch], num_counted: int, pad_token_id: int = 0) -> Minibatch:
        from torch.nn.functional import pad

        minibatch = collate(samples, num_counted, pad_token_id)
        num_rows, length = minibatch["input_ids"].shape
        num_padding = padded_length(length, token_budget) - length
        for name, value in (("input_ids", pad_token_id), ("labels", NO_TARGET), ("attention_mask", 0)):
            minibatch[name] = pad(minibatch[name], (0, num_padding), value=value)
        return {
            **minibatch,
            **_counts(samples),
            **of_samples(samples),
            "total_length": num_rows * (length + num_padding),
        }

    return collate_padded


def _counts(samples: list[Minibatch]) -> dict[str, int]:
    """Return the tokens of samples, and the sum of their squared lengths, on which attention's work depends.

    The library's dummy sample, the only one without a loss token, has none.
    """
    lengths = [len(sample["input_ids"]) for sample in samples if sample["num_loss_counted_tokens"] > 0]
    return {"num_tokens": sum(lengths), "num_squares": sum(length * length for length in lengths)}
