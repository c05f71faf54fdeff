"""Speeds of a step from its counts."""

from __future__ import annotations

from typing import Any

import pytest

from sft.adapters.instructlab.rank import throughput
from sft.adapters.instructlab.rank.batch import BatchFacts

COUNTS: dict[str, Any] = {"num_samples": 4, "num_tokens": 100, "num_loss_tokens": 40, "num_squares": 3000}
BATCH = BatchFacts(
    **COUNTS, loss=1.0, gradient_norm=1.0, num_padded_tokens=128, memory_bytes=1, num_ranks=2, stop=False
)


def test_utilisation_is_what_the_model_needs_by_what_all_ranks_could_do() -> None:
    speeds = throughput.of_batch(BATCH, 0.5, flops=(10.0, 5.0, 0.1), peak_flops=15_000.0)
    assert speeds["flops_per_second"] == pytest.approx((1000 + 200 + 300) / 0.5)
    assert speeds["mfu"] == pytest.approx(3000 / 30_000)
    assert (speeds["samples_per_second"], speeds["tokens_per_second"], speeds["loss_tokens_per_second"]) == (8, 200, 80)


def test_what_is_not_known_is_left_out() -> None:
    assert "mfu" not in throughput.of_batch(BATCH, 0.5, flops=(10.0, 5.0, 0.1), peak_flops=None)
    assert "flops_per_second" not in throughput.of_batch(BATCH, 0.5, flops=None, peak_flops=15_000.0)
