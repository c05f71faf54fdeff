"""What Kubernetes reads as an amount, and what it refuses."""

from __future__ import annotations

import pytest

from sft.config.k8s_quantity import amount, is_quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [("4", 4), ("500m", 0.5), ("64Gi", 64 * 2**30), ("1k", 1000), ("1.5G", 1.5e9), ("2e3", 2000), ("3E", 3e18)],
)
def test_a_quantity_is_what_kubernetes_reads_in_it(text: str, number: float) -> None:
    assert is_quantity(text)
    assert amount(text) == number


@pytest.mark.parametrize("text", ["", "-1", "0", "4 ", "4\n", "1,5", "64GB", "Gi", "1K i", "٣Gi", "10E", "1e400"])
def test_what_is_no_quantity_is_none(text: str) -> None:
    assert not is_quantity(text)
