"""Owns how fast a step was: samples, tokens and operations a second, and how much of the GPUs that uses."""

from __future__ import annotations

from collections.abc import Sequence

from sft.adapters.instructlab.rank.batch import BatchFacts


def of_batch(
    batch: BatchFacts, seconds: float, *, flops: Sequence[float] | None, peak_flops: float | None
) -> dict[str, float]:
    """Return speeds over all ranks, none of which counts padding or what is recomputed.

    ``mfu`` is left out on a CPU: what one does at most depends on the other ranks that share its caches and its clock.

    Args:
        batch: What was computed.
        seconds: In how long, loading and the optimizer's step included.
        flops: Operations per token, per loss token and per squared length of a sample; None = not known.
        peak_flops: The most operations a second of one rank; None = not known.

    Returns:
        ``samples_per_second``, ``tokens_per_second``, ``loss_tokens_per_second``; where they are known
        ``flops_per_second`` and ``mfu``, the model FLOPs utilisation (arXiv:2204.02311, appendix B).
    """
    speeds = {
        "samples_per_second": batch.num_samples / seconds,
        "tokens_per_second": batch.num_tokens / seconds,
        "loss_tokens_per_second": batch.num_loss_tokens / seconds,
    }
    if flops is not None:
        counts = (batch.num_tokens, batch.num_loss_tokens, batch.num_squares)
        speeds["flops_per_second"] = sum(each * count for each, count in zip(flops, counts, strict=True)) / seconds
        if peak_flops is not None:
            speeds["mfu"] = speeds["flops_per_second"] / (peak_flops * batch.num_ranks)
    return speeds
