"""Owns training on a CPU, although the library names CUDA in a handful of places.

Used only if there is no CUDA device. Each replacement cites what it replaces in instructlab-training 0.16.2, accelerate
1.15 or torch 2.13, and can be removed when upstream takes a device; ``tests/contract`` checks the names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sft.adapters.patched import patched, patched_environment


@contextmanager
def cpu_as_accelerator() -> Iterator[None]:
    """Make the library use the CPU in place of CUDA devices, until the block ends."""
    import torch
    from instructlab.training import accelerator, batch_loss_manager

    cpu = torch.device("cpu")
    init = batch_loss_manager.BatchLossManager.__init__

    def init_on_cpu(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.torch_device = cpu  # batch_loss_manager.py:73

    replacements: tuple[tuple[object, str, object], ...] = (
        (torch.cuda, "set_device", lambda *_: None),  # main_ds.py:554
        (torch.cuda, "memory_allocated", lambda *_: 0),  # main_ds.py:327
        (torch.cuda, "memory_stats", lambda *_: {"num_alloc_retries": 0}),  # main_ds.py:328
        (torch.Tensor, "cuda", lambda self, *_, **__: self),  # main_ds.py:564
        (accelerator, "TransformersAccel", _cpu_accelerator(accelerator.TransformersAccel)),  # accelerator.py:87
        (batch_loss_manager.BatchLossManager, "__init__", init_on_cpu),
    )
    with patched_environment(ACCELERATE_USE_CPU="true"), patched(*replacements):
        yield


def _cpu_accelerator(base: type) -> type:
    """Return an accelerator with an FSDP state on a CPU, which accelerate makes only for MULTI_GPU (state.py:987)."""
    import torch
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    class CpuFsdpAccelerator(base):  # type: ignore[misc]
        def __init__(self, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
            super().__init__(*args, cpu=True, fsdp_plugin=fsdp_plugin, **kwargs)
            if fsdp_plugin is None or self.state.distributed_type == DistributedType.FSDP:
                return
            if self.state._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.state._mixed_precision)
            self.state.fsdp_plugin = fsdp_plugin
            for shared in (self.state.__dict__, PartialState._shared_state):
                shared["distributed_type"] = DistributedType.FSDP
                shared["device"] = torch.device("cpu")  # FSDP refuses accelerate's "cpu:0"

    return CpuFsdpAccelerator
