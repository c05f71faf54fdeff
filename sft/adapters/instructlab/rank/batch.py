"""Owns forward and backward of a batch, and the one moment in a step at which a rank waits for its device.

The library's `process_batch` (batch_loss_manager.py:75@0.16.2) waits five times: for two counts, for its own loss, for
the loss of all ranks; its loop (main_ds.py:433) then frees the device's cache. Here counts come from the host, where
the minibatches were made, and everything that differs between ranks goes through one gather after the last backward
pass: before the optimizer's step, so that a loss or a gradient norm that is not finite is known before it reaches the
weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sft.adapters.instructlab.rank import by_source
from sft.adapters.instructlab.rank.by_source import BY_SOURCE
from sft.adapters.instructlab.rank.context_parallel import SHARE
from sft.adapters.instructlab.rank.copies import to_device


@dataclass(frozen=True, kw_only=True)
class BatchFacts:
    """What is known of a batch over all ranks, before the optimizer's step.

    Attributes:
        loss: Mean over the loss tokens, with the mean of routers' losses.
        gradient_norm: Before it is clipped.
        num_samples: Of them.
        num_tokens: Without padding.
        num_padded_tokens: With it.
        num_squares: The sum of the squared lengths of its samples.
        memory_bytes: The largest peak of any rank so far.
        num_ranks: That have computed it.
        stop: Whether any rank was asked to stop.
        by_source: The loss of each source that has a token, and their number, as fields of ``metrics.jsonl``.
    """

    loss: float
    gradient_norm: float
    num_loss_tokens: int
    num_samples: int
    num_tokens: int
    num_padded_tokens: int
    num_squares: int
    memory_bytes: int
    num_ranks: int
    stop: bool
    by_source: dict[str, float] = field(default_factory=dict)


def process(manager: Any, batch: list[Any], *, max_grad_norm: float, asked_to_stop: bool) -> BatchFacts:
    """Run forward and backward of a rank's minibatches, clip the gradients, and wait for the device once.

    Args:
        manager: The library's `BatchLossManager`.
        batch: The minibatches of this rank, as they were collated.
        max_grad_norm: Gradients are scaled down to this norm.
        asked_to_stop: Whether this rank was.
    """
    import torch
    import torch.distributed as dist

    accelerator, num_loss_tokens = manager.accelerator, int(batch[0]["batch_num_loss_counted_tokens"])
    losses = torch.zeros(2, dtype=torch.float64, device=accelerator.device)  # of tokens, of routers
    BY_SOURCE.begin(accelerator.device)
    for minibatch in batch:
        arguments = manager._prepare_model_inputs(minibatch)
        scaled, raw = manager.model.compute_loss(arguments, manager.world_size, num_loss_tokens)
        accelerator.backward(scaled)
        losses[0] += raw.main_loss.detach()
        if raw.aux_loss is not None:
            losses[1] += raw.aux_loss.detach()
    norm = accelerator.clip_grad_norm_(accelerator.model.parameters(), max_grad_norm)
    counted = batch if SHARE.counts else []
    counts = (
        *(sum(minibatch[name] for minibatch in counted) for name in ("num_samples", "num_tokens", "total_length")),
        sum(minibatch["num_squares"] for minibatch in counted),
        peak_bytes(),
        asked_to_stop,
    )
    of_host = torch.tensor([float(count) for count in counts], dtype=torch.float64)
    device = accelerator.device
    own = torch.cat([losses, norm.double().reshape(1).to(device), to_device(of_host, device), BY_SOURCE.sums])
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    rows = torch.stack(every).T.tolist()
    of_tokens, of_routers, norms, samples, tokens, padded, squares, peaks, stops, *of_sources = rows
    return BatchFacts(
        loss=sum(of_tokens) / num_loss_tokens + sum(of_routers) / len(every),
        gradient_norm=norms[0],
        num_loss_tokens=num_loss_tokens,
        num_samples=int(sum(samples)),
        num_tokens=int(sum(tokens)),
        num_padded_tokens=int(sum(padded)),
        num_squares=int(sum(squares)),
        memory_bytes=int(max(peaks)),
        num_ranks=len(every),
        stop=any(stops),
        by_source=by_source.means([sum(row) for row in of_sources], BY_SOURCE.names, "loss"),
    )


def upstream_metrics(facts: BatchFacts, num_minibatches: int) -> Any:
    """Return what the library's loop reads of a batch."""
    from instructlab.training.batch_loss_manager import BatchMetrics

    return BatchMetrics(
        total_samples=facts.num_samples,
        total_length=facts.num_padded_tokens,
        num_loss_counted_tokens=facts.num_loss_tokens,
        accumulated_loss=None,  # upstream's loop doesn't read it
        accumulated_aux_loss=None,
        grad_accum_steps=num_minibatches,
        num_minibatches=num_minibatches,
    )


def peak_bytes() -> int:
    """Return the largest memory that this rank has used: on its device, or of its process on a CPU."""
    import resource

    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
