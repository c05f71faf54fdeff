"""Owns what FSDP is given and how it keeps gradients: precisions, accumulation under offloading, groups of nodes.

Each replacement cites its place in instructlab-training 0.16.2, accelerate 1.15 or torch 2.13; ``tests/contract``
checks the names, and ``tests/contract/test_sharding.py`` shows each fault without its replacement.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sft.adapters.patched import patched
from sft.errors import StageError


@contextmanager
def patched_sharding(*, mixed_precision: str, hybrid: bool) -> Iterator[None]:
    """Apply all fixes until the block ends.

    Args:
        mixed_precision: Precision as accelerate names it: ``bf16``, or ``no`` to compute in fp32.
        hybrid: Whether the sharding strategy is HYBRID_SHARD.

    Raises:
        StageError: `check_hybrid_groups` does.
    """
    from instructlab.training import accelerator
    from torch.distributed.fsdp import _runtime_utils as runtime
    from torch.distributed.fsdp._flat_param import FlatParamHandle

    if hybrid:
        check_hybrid_groups()
    replacements: list[tuple[object, str, object]] = [
        (FlatParamHandle, "prepare_gradient_for_backward", keeping_offloaded(FlatParamHandle)),
        (runtime, "_offload_grad", adding_offloaded(runtime._offload_grad)),
    ]
    if mixed_precision != "no":
        plugin = accelerator.FullyShardedDataParallelPlugin
        replacements.append((accelerator, "FullyShardedDataParallelPlugin", precise_plugin(plugin)))
    with patched(*replacements):
        yield


def precise_plugin(make: Callable[..., Any]) -> Callable[..., Any]:
    """Trap 24, accelerate dataclasses.py:2139: return a plugin whose bf16 is only that of parameters in the passes.

    accelerate gives FSDP bf16 for gradients' sums over ranks and for buffers, too. RoPE's frequencies are a buffer:
    rounded to 8 bits, a token at position 2,047 is turned by up to 2.4 rad too much or too little. Here gradients are
    summed in fp32, and each buffer keeps the type that its architecture gave it (None = FSDP casts none).
    """

    def plugin(*args: Any, **kwargs: Any) -> Any:
        import torch
        from torch.distributed.fsdp import MixedPrecision

        precisions = MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, buffer_dtype=None)
        return make(*args, **{**kwargs, "mixed_precision_policy": precisions})

    return plugin


def keeping_offloaded(handle_class: Any) -> Callable[[Any], None]:
    """Trap 25, torch fsdp/_flat_param.py:1642: note, before a backward pass, that a gradient waits in host memory.

    torch can't add a gradient on the device to the one of an earlier minibatch that it has offloaded, and so forgets
    the earlier one: of a batch, only the last minibatch was trained.
    """
    prepare = handle_class.prepare_gradient_for_backward

    def prepare_gradient_for_backward(handle: Any) -> None:
        parameter = handle.flat_param
        if handle._offload_params:
            parameter._has_earlier_gradient = parameter.grad is not None
            parameter.grad = None  # its values stay in _cpu_grad
        prepare(handle)

    return prepare_gradient_for_backward


def adding_offloaded(offload: Callable[..., None]) -> Callable[..., None]:
    """Trap 25, torch fsdp/_runtime_utils.py:985: add a gradient to the earlier minibatches' in host memory."""

    def offload_grad(state: Any, handle: Any, gradient: Any) -> None:
        if handle._offload_params and getattr(handle.flat_param, "_has_earlier_gradient", False):
            offloaded = handle.flat_param._cpu_grad
            offloaded.add_(gradient.detach().to(offloaded.device))  # waits for the device, unlike torch's first copy
        else:
            offload(state, handle, gradient)

    return offload_grad


def check_hybrid_groups() -> None:
    """Trap 26, torch fsdp/_init_utils.py:161: HYBRID_SHARD takes each `device_count` ranks for a node.

    Raises:
        StageError: This node has another number of ranks, so that groups would span nodes or miss ranks.
    """
    import torch

    devices, ranks = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if devices != ranks:
        raise StageError(
            f"HYBRID_SHARD: {ranks} ranks of this node see {devices} GPUs, and torch forms its groups by counting GPUs",
            fix="show each node's ranks as many GPUs as there are ranks (CUDA_VISIBLE_DEVICES), or training/fsdp="
            "full_shard",
        )


@contextmanager
def patched_timeouts(seconds: float) -> Iterator[None]:
    """Let collectives wait so long, in every group that is made until the block ends.

    NCCL's default of 10 minutes, gloo's of 30, would end the ranks before `training.stall_timeout_seconds` lets them
    write their stacks; groups of HYBRID_SHARD don't take the timeout of the first group
    (torch distributed_c10d.py:839).
    """
    from torch.distributed import distributed_c10d

    timeout = timedelta(seconds=seconds)
    with patched(
        (distributed_c10d, "default_pg_timeout", timeout), (distributed_c10d, "default_pg_nccl_timeout", timeout)
    ):
        yield
