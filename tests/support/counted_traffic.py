"""Counts what FSDP sends in a minibatch, on pretended ranks: ``python -m … STRATEGY RANKS VERSION``.

Prints JSON: the bytes of weights that are gathered, and of gradients that are added up.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NUM_MINIBATCHES = 4
"""Of what `simulated_memory.counted_peak` runs: two steps of two."""
CONFIG = {"model_type": "qwen2", "num_hidden_layers": 4}


def main(strategy: str, num_ranks: int, version: int) -> None:
    """Print the bytes of one minibatch, by what they are."""
    import torch.distributed as dist
    from torch import Tensor

    sys.path.insert(0, str(BENCHMARKS))
    simulated_memory = importlib.import_module("simulated_memory")

    sent = {"gathered": 0, "added": 0}

    def size(tensors: Tensor | list[Tensor]) -> int:
        return sum(each.numel() * each.element_size() for each in (tensors if isinstance(tensors, list) else [tensors]))

    def watched(name: str, kind: str, place: int, argument: str) -> Any:
        real: Callable[..., Any] = getattr(dist, name)

        def collective(*args: Any, **kwargs: Any) -> Any:
            group = kwargs.get("group")
            if group is None or group.size() > 1:
                sent[kind] += size(kwargs[argument] if argument in kwargs else args[place])
            return real(*args, **kwargs)

        return mock.patch.object(dist, name, collective)

    with ExitStack() as stack:
        for collective in (
            ("all_gather", "gathered", 0, "tensor_list"),
            ("all_gather_single", "gathered", 0, "output"),
            ("reduce_scatter_single", "added", 1, "input"),
            ("all_reduce", "added", 0, "tensor"),
        ):
            stack.enter_context(watched(*collective))
        case = simulated_memory.Case(strategy, num_ranks, version=version)
        simulated_memory.counted_peak({**simulated_memory.SHAPE, **CONFIG}, case)
    print(json.dumps({kind: num_bytes / NUM_MINIBATCHES for kind, num_bytes in sent.items()}))  # noqa: T201 - its answer


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
