"""Owns what a rank says of a step in ``metrics.jsonl``, and of what it runs on."""

from __future__ import annotations

import argparse
import os
from typing import Any

from sft.adapters.instructlab.rank import throughput
from sft.adapters.instructlab.rank.batch import BatchFacts
from sft.adapters.instructlab.rank.full_states import Position
from sft.adapters.instructlab.settings import WorkerOptions


def step_row(
    position: Position, batch: BatchFacts, *, seconds: float, learning_rate: float, options: WorkerOptions
) -> dict[str, Any]:
    """Return the row of ``metrics.jsonl`` of the step that has just been made.

    Args:
        position: After it.
        batch: What is known of its samples.
        seconds: That it took.
        learning_rate: After it.
        options: Of this rank.
    """
    speed = throughput.of_batch(batch, seconds, flops=options.flops, peak_flops=options.peak_flops)
    return {
        "step": position.step,
        "epoch": position.epoch,
        "samples_seen": position.samples_seen,
        "loss": batch.loss,
        "num_padded_tokens": batch.num_padded_tokens,
        "num_loss_tokens": batch.num_loss_tokens,
        "gradient_norm": batch.gradient_norm,
        "learning_rate": learning_rate,
        "num_tokens": batch.num_tokens,
        "seconds": seconds,
        **speed,
        "padding": 1 - batch.num_tokens / batch.num_padded_tokens,
        "memory_bytes": batch.memory_bytes,
        **batch.by_source,
    }


def run_layout(args: argparse.Namespace, options: WorkerOptions) -> dict[str, Any]:
    """Return what a training runs on: a state that was saved on another layout begins another stretch of the run."""
    num_ranks, on_this_node = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    return {
        "num_nodes": num_ranks // on_this_node,
        "num_ranks": num_ranks,
        "fsdp_version": options.fsdp_version,
        "strategy": args.fsdp_sharding_strategy,
        "compiles_layers": options.compile_layers,
        "device": options.device,
        **({"context_parallel": options.context_parallel} if options.context_parallel > 1 else {}),
    }
