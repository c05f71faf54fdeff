"""What a GPU does at most, found by the names that drivers give GPUs."""

from __future__ import annotations

import pytest

from sft.config.schema import Precision
from sft.planning.gpu_peaks import PEAKS, peak_flops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA A4000", None),
        ("Tesla T4", None),  # has no bf16
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("cpu", None),
        ("kubeflow-gpu", None),
    ],
)
def test_a_name_gives_the_peak_of_that_gpu_and_of_no_other(name: str, peak: float | None) -> None:
    assert peak_flops(name, Precision.bf16) == peak
    assert peak_flops(name, Precision.fp32) is None


def test_each_peak_says_where_it_is_from_and_fp8_is_twice_as_fast() -> None:
    for peak in PEAKS:
        assert peak.source.startswith("NVIDIA ")
        assert peak.fp8 is None or peak.fp8 == pytest.approx(2 * peak.fp16, rel=0.02)
