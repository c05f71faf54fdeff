"""Times a model's matrix products in fp32 and in bf16 on this CPU: ``python -m sft.adapters.os.matmul_timing``.

A child process, because it imports torch. Each product is timed as training does it (forward, gradient of the input,
gradient of the weight) and its weight's casts: under mixed precision the weights are fp32, are cast to bf16 for each
minibatch, and their gradients are cast back. It is the processor's time of one thread, the two take turns and the best
round of each counts, so that other work on the machine decides nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from sft.adapters.os import child

_SECONDS = 2.0
_MIN_ROUNDS = 3
_ROUND_FLOPS = 2e10
"""Floating-point operations of a round in one precision; a core does from 1e10 to 1e11 a second."""
_PLAIN = 5.0
"""How often slower is slower in any round: some CPUs take twenty times as long in bf16, a minute for three rounds."""
_MIN_ROWS, _MAX_COLUMNS = 64, 8192
"""Fewer rows would time how fast weights are read; more columns only take longer: a vocabulary is scaled."""


def time_matmuls(request: Mapping[str, Any]) -> dict[str, Any]:
    """Time matrix products.

    Args:
        request: ``matmuls``, a list of features in, features out and how often a pass has it; ``tokens`` of a
            minibatch.

    Returns:
        Seconds of a minibatch on one core by precision, under ``training``; under ``rows`` the tokens that were timed.
    """
    import torch

    torch.set_num_threads(1)
    matmuls = [
        (wide, min(out, _MAX_COLUMNS), num * max(1.0, out / _MAX_COLUMNS)) for wide, out, num in request["matmuls"]
    ]
    per_row = sum(6 * wide * out for wide, out, _ in matmuls)
    rows = min(request["tokens"], max(_MIN_ROWS, int(_ROUND_FLOPS / per_row) // 32 * 32))
    best: dict[tuple[str, int, str], float] = {}
    began, num_rounds = time.monotonic(), 0
    while num_rounds < _MIN_ROUNDS or time.monotonic() - began < _SECONDS:
        if num_rounds and _is_plain(best):
            break
        num_rounds += 1
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            for place, (wide, out, _) in enumerate(matmuls):
                for part, seconds in _seconds(rows, wide, out, dtype).items():
                    key = name, place, part
                    best[key] = min(best.get(key, math.inf), seconds)
    scale = request["tokens"] / rows

    def total(name: str) -> float:
        weights = {"forward": scale, "backward": scale, "casts": 1.0}
        return math.fsum(
            num * best[name, place, part] * weight
            for place, (_, _, num) in enumerate(matmuls)
            for part, weight in weights.items()
        )

    return {"rows": rows, "training": {name: total(name) for name in ("fp32", "bf16")}}


def _is_plain(best: Mapping[tuple[str, int, str], float]) -> bool:
    """Return whether one precision is so far behind that more rounds would not change which is the faster one."""
    sums = [math.fsum(seconds for (name, *_), seconds in best.items() if name == which) for which in ("fp32", "bf16")]
    return max(sums) > _PLAIN * min(sums)


def _seconds(rows: int, wide: int, out: int, dtype: Any) -> dict[str, float]:
    """Return the seconds of one product's parts: ``forward``, ``backward``, ``casts`` of its weight and gradient."""
    import torch

    master = torch.randn(out, wide)
    inputs, gradients = torch.randn(rows, wide).to(dtype), torch.randn(rows, out).to(dtype)
    weight = master.to(dtype)
    with torch.inference_mode():
        return {
            "forward": _timed(lambda: inputs @ weight.t()),
            "backward": _timed(lambda: (gradients @ weight, gradients.t() @ inputs)),
            "casts": 0.0 if dtype == torch.float32 else _timed(lambda: (master.to(dtype), weight.to(torch.float32))),
        }


def _timed(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


if __name__ == "__main__":
    child.main(time_matmuls)
