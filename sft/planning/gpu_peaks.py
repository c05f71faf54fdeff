"""How many operations a second a GPU does at most, by the name that its driver gives it.

Dense products: data sheets that name twice as many mean matrices of which half the numbers are zero.
"""

from __future__ import annotations

from typing import NamedTuple

from sft.config.schema import Precision


class GpuPeak(NamedTuple):
    """Operations a second, in units of 1e12, and where the vendor says so; None = it has no such products.

    Attributes:
        names: What a name must hold, each of them.
    """

    names: tuple[str, ...]
    bf16: float | None
    fp16: float
    fp8: float | None
    source: str


_H100 = "NVIDIA H100 Tensor Core GPU data sheet"
_ADA = "NVIDIA Ada GPU architecture whitepaper, appendix A"

PEAKS = (  # the first whose names are in the driver's name
    GpuPeak(("GB200",), 2500, 2500, 5000, "NVIDIA GB200 NVL72 data sheet, a GPU"),
    GpuPeak(("B200",), 2250, 2250, 4500, "NVIDIA Blackwell (HGX B200) data sheet, an eighth"),
    GpuPeak(("H200", "NVL"), 835, 835, 1671, "NVIDIA H200 Tensor Core GPU data sheet"),
    GpuPeak(("H200",), 989, 989, 1979, "NVIDIA H200 Tensor Core GPU data sheet"),
    GpuPeak(("GH200",), 989, 989, 1979, "NVIDIA GH200 Grace Hopper Superchip data sheet"),
    GpuPeak(("H100", "NVL"), 835, 835, 1671, _H100),
    GpuPeak(("H100", "PCIe"), 756, 756, 1513, _H100),
    GpuPeak(("H100",), 989, 989, 1979, _H100),
    GpuPeak(("A100",), 312, 312, None, "NVIDIA A100 Tensor Core GPU data sheet"),
    GpuPeak(("A40",), 149.7, 149.7, None, "NVIDIA A40 data sheet"),
    GpuPeak(("A30",), 165, 165, None, "NVIDIA A30 Tensor Core GPU data sheet"),
    GpuPeak(("L40S",), 362, 362, 733, "NVIDIA L40S data sheet"),
    GpuPeak(("L40",), 181, 181, 362, "NVIDIA L40 data sheet"),
    GpuPeak(("L4",), 121, 121, 242, "NVIDIA L4 Tensor Core GPU data sheet"),
    GpuPeak(("RTX 4090",), 165.2, 165.2, 330.3, _ADA),
    GpuPeak(("V100", "SXM"), None, 125, None, "NVIDIA V100 Tensor Core GPU data sheet"),
    GpuPeak(("V100", "PCIE"), None, 112, None, "NVIDIA V100 Tensor Core GPU data sheet"),
    GpuPeak(("T4",), None, 65, None, "NVIDIA T4 Tensor Core GPU data sheet"),
)
_PARTS_OF_A_GPU = "MIG"


def peak_flops(gpu: str, precision: Precision) -> float | None:
    """Return the most operations a second of one GPU; None where no data sheet says it of such products.

    fp32 is not said: on which units torch computes it depends on its settings. Nor is what a part of a GPU does.

    Args:
        gpu: The driver's name, such as ``NVIDIA H100 80GB HBM3``.
        precision: Of the training.
    """
    words = gpu.replace("-", " ").split()
    if precision is not Precision.bf16 or _PARTS_OF_A_GPU in words:
        return None
    for peak in PEAKS:
        if all(set(name.split()) <= set(words) for name in peak.names):
            return peak.bf16 * 1e12 if peak.bf16 else None
    return None
