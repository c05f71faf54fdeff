"""4-bit NormalFloat as QLoRA's authors describe it (arXiv:2305.14314), an implementation apart from bitsandbytes'."""

from __future__ import annotations

from typing import Any

import numpy as np


def nf4_values() -> Any:
    """Return the 16 values (section 3 and appendix E), fp32: quantiles of a normal distribution.

    Of 8 quantiles of the negative half and 8 of the positive one, 0 is in both, and the largest is 1.
    """
    from scipy.stats import norm

    last = ((1 - 1 / 32) + (1 - 1 / 30)) / 2  # the outermost quantile, as far from 1 as half a step of 16 or of 15
    negative = -norm.ppf(np.linspace(last, 0.5, 8)[:-1])
    positive = norm.ppf(np.linspace(last, 0.5, 9)[:-1])
    values = np.concatenate([negative, [0.0], positive[::-1]])
    return (values / np.abs(values).max()).astype(np.float32)


def widened(weight: Any) -> tuple[Any, Any, Any]:
    """Return what 4 bits keep of a matrix, the index of each weight's value, and the scale of each 64 of them.

    Args:
        weight: NumPy array whose size is a multiple of 64.
    """
    values, blocks = nf4_values(), weight.reshape(-1, 64)
    scales = np.abs(blocks).max(axis=1)
    nearest = np.abs(blocks[:, :, None] / scales[:, None, None] - values).argmin(axis=2)
    return (values[nearest] * scales[:, None]).reshape(weight.shape), nearest.reshape(-1), scales
