"""Owns FSDP2: which modules are sharded together, over which ranks and in which precisions.

The library and accelerate drive FSDP1: they wrap the model before there is an optimizer, which accelerate refuses for
FSDP2 (accelerator.py:1519@1.15), name a sharding strategy, which it refuses too (dataclasses.py:1878), and give LoRA a
wrapping policy that it ignores in silence, so that the whole model is one unit (fsdp_utils.py:970). Here torch's
`fully_shard` is called directly, where the library prepares the model; the optimizer then sees the sharded parameters.
It can be removed when upstream prepares model and optimizer together.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sft.adapters.instructlab.rank import compilation
from sft.adapters.patched import patched
from sft.errors import StageError

log = logging.getLogger(__name__)

_REPLICAS, _SHARDS = "replicas", "shards"


@contextmanager
def patched_accelerator(
    *, precision: str, strategy: str, cpu_offload_params: bool, compiles: bool = False
) -> Iterator[None]:
    """Make the library shard with FSDP2 until the block ends.

    Args:
        precision: Arithmetic of forward and backward: ``bf16`` or ``fp32``.
        strategy: As FSDP1 names it: ``FULL_SHARD``, ``SHARD_GRAD_OP``, ``HYBRID_SHARD`` or ``NO_SHARD``.
        cpu_offload_params: Whether parameters, gradients and optimizer wait in host memory.
        compiles: Whether layers are compiled.

    Raises:
        StageError: `check_savable` or `compile_layers` does, once the model is there.
    """
    from instructlab.training import accelerator

    def plugin(self: Any) -> Any:
        check_savable(self.model)
        return _plugin(precision, strategy, cpu_offload_params)

    with patched(
        (accelerator, "TransformersAccel", _sharding_accelerator(accelerator.TransformersAccel, strategy, compiles)),
        (accelerator.Accelerator, "get_fsdp_config", plugin),
    ):
        yield


def check_savable(model: Any) -> None:
    """Refuse a model that the library saves by FSDP1's means: gpt-oss, and what is stored in FP8 (utils.py:753@0.16.2).

    Args:
        model: The library's.

    Raises:
        StageError: It is one, which would be found out after the training.
    """
    of_fp8 = getattr(getattr(model.model, "config", None), "_fp8_scales", None)
    if getattr(model, "is_gpt_oss", False) or of_fp8:
        raise StageError(
            f"{type(model.model).__name__} can be trained with FSDP2, but not saved", fix="training.fsdp.version=1"
        )


def _plugin(precision: str, strategy: str, cpu_offload_params: bool) -> Any:
    """Return what accelerate knows of FSDP2.

    Gradients are summed in fp32 (trap 24); FSDP2 casts no buffer. A frozen weight that waits in bf16 is widened when it
    is gathered for fp32.
    """
    import torch
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy

    computed = torch.bfloat16 if precision == "bf16" else torch.float32
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=strategy != "SHARD_GRAD_OP",
        cpu_offload=CPUOffloadPolicy() if cpu_offload_params else OffloadPolicy(),
        # Inputs are cast by nobody, as in FSDP1: a layer that computes in fp32 what it passes on has a reason.
        mixed_precision_policy=MixedPrecisionPolicy(
            param_dtype=computed, reduce_dtype=torch.float32, cast_forward_inputs=False
        ),
    )


def _sharding_accelerator(base: type, strategy: str, compiles: bool) -> type:
    class ShardingAccelerator(base):  # type: ignore[misc]
        """accelerate's, for a model that is sharded before there is an optimizer."""

        def prepare(self, model: Any, *rest: Any, **_: Any) -> Any:
            if not rest:  # accelerator.py:92 of the library
                self._ranks = mesh(strategy, self.device.type)
                if compiles:
                    compilation.compile_layers(model, layers_of(model))
                shard(model, self._ranks, self.state.fsdp_plugin)
                self._models.append(model)
                return model
            optimizer, loader, scheduler = rest  # accelerator.py:108
            return model, self.prepare_optimizer(optimizer), loader, self.prepare_scheduler(scheduler)

        def clip_grad_norm_(self, parameters: Any, max_norm: float, norm_type: float = 2) -> Any:
            assert norm_type == 2
            return clip(parameters, max_norm, self._ranks.get_group(_SHARDS), self.device)

    return ShardingAccelerator


def mesh(strategy: str, device: str) -> Any:
    """Return all ranks as replicas x shards: each row of the mesh has the whole model, once."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    ranks = dist.get_world_size()
    shards = {"NO_SHARD": 1, "HYBRID_SHARD": int(os.environ["LOCAL_WORLD_SIZE"])}.get(strategy, ranks)
    if shards == ranks:
        return init_device_mesh(device, (ranks,), mesh_dim_names=(_SHARDS,))
    return init_device_mesh(device, (ranks // shards, shards), mesh_dim_names=(_REPLICAS, _SHARDS))


def shard(model: Any, ranks: Any, plugin: Any) -> None:
    """Shard `model` in place: each layer on its own, and together what is outside of them.

    What is trained becomes fp32, the optimizer's precision. What is frozen stays in the type that it has, and may share
    a layer with what is trained: so LoRA's matrices need no units of their own.

    Args:
        model: A `PreTrainedModel`, maybe inside PEFT's.
        ranks: As `mesh` returns them.
        plugin: As accelerate's state holds it.
    """
    from torch.distributed.fsdp import fully_shard

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    how = {"mesh": ranks, "mp_policy": plugin.mixed_precision_policy, "offload_policy": plugin.cpu_offload}
    layers = layers_of(model)
    if not layers:
        log.warning("the model names no layers (_no_split_modules): it is sharded, and gathered, as a whole")
    for layer in reversed(layers):  # inner ones first
        fully_shard(layer, reshard_after_forward=plugin.reshard_after_forward, **how)
    fully_shard(model, **how)


def layers_of(model: Any) -> list[Any]:
    """Return the repeated layers of a `PreTrainedModel`, outer ones first; by the names that it has for them."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def clip(parameters: Any, max_norm: float, group: Any, device: Any) -> Any:
    """Scale the gradients of `parameters` to a norm of at most `max_norm`, in place, and return the norm before.

    As FSDP1 does it, on the shards themselves: one sum over the ranks, where torch's `clip_grad_norm_` sends every
    parameter's operations through DTensor.

    Args:
        parameters: DTensors, sharded over `group`.
        max_norm: Largest norm.
        group: Ranks that together hold each gradient once.
        device: Where `group` can sum.
    """
    import torch
    import torch.distributed as dist

    gradients = [parameter.grad.to_local() for parameter in parameters if parameter.grad is not None]
    squared = torch.nn.utils.get_total_norm(gradients).square().to(device)
    dist.all_reduce(squared, group=group)
    norm = squared.sqrt()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0).to(gradients[0].device)
    if scale.is_cuda:
        torch._foreach_mul_(gradients, scale)
    else:  # where torch's foreach would read the scale
        for gradient in gradients:
            gradient.mul_(scale)
    return norm
