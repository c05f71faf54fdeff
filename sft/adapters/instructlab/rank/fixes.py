"""Owns fixes of instructlab-training 0.16.2, and options in place of its hard-coded choices.

Each function fixes one trap of ``docs/backend.md``, cites ``file:line@version`` and says when it can be removed. They
replace names of the library while a block runs; ``tests/contract`` checks the names.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sft.adapters.instructlab.rank import noise
from sft.adapters.patched import patched

_TRACKERS = ("mlflow", "wandb")


@contextmanager
def patched_options(
    *, mixed_precision: str, num_workers: int, packs_rows: bool = False, narrows_frozen: bool = False
) -> Iterator[None]:
    """Set what the library hard-codes, until the block ends: bf16, 8 loader workers.

    Trap 22: weights are loaded in the precision of the checkpoint, mostly bf16, and accelerate makes the trained ones
    fp32 only with mixed precision. Without it, fp32 was bf16 throughout, the optimizer's steps included.

    Args:
        mixed_precision: Precision as accelerate names it: ``bf16``, or ``no`` to compute in fp32.
        num_workers: Data loader processes per rank.
        packs_rows: Whether a minibatch is one row of samples. The library packs with flash attention alone, and then
            any model, also those whose other layers don't keep samples apart (trap 29).
        narrows_frozen: Whether a frozen weight waits in the precision of the checkpoint also where fp32 computes, which
            FSDP2 widens when it gathers it: the same numbers in half the memory.
    """
    from instructlab.training import accelerator, main_ds, model

    make_accelerator, make_loader = accelerator.TransformersAccel, main_ds.get_data_loader

    def with_precision(*args: Any, **kwargs: Any) -> Any:  # accelerator.py:85
        return make_accelerator(*args, **{**kwargs, "mixed_precision": mixed_precision})

    def with_workers(*args: Any, **kwargs: Any) -> Any:  # main_ds.py:645
        return make_loader(*args, **{**kwargs, "num_workers": num_workers, "flash_enabled": packs_rows})

    finish_model = model.Model._post_model_init

    def in_fp32(self: Any) -> None:  # model.py:634, before adapters are added
        stored = {parameter: parameter.dtype for parameter in self.model.parameters()}
        self.model.float()
        finish_model(self)
        for parameter, dtype in stored.items():
            if narrows_frozen and not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)

    replacements: list[tuple[object, str, object]] = [
        (accelerator, "TransformersAccel", with_precision),
        (main_ds, "get_data_loader", with_workers),
    ]
    if mixed_precision == "no":
        replacements.append((model.Model, "_post_model_init", in_fp32))
    with patched(*replacements):
        yield


@contextmanager
def patched_library() -> Iterator[None]:
    """Apply all fixes until the block ends."""
    import torch
    import torch.distributed.fsdp._state_dict_utils as fsdp_state
    from instructlab.training import main_ds, utils
    from transformers import masking_utils

    unshard = fsdp_state._common_unshard_pre_state_dict_hook
    with patched(
        (main_ds, "setup_metric_logger", skip_metric_logger),
        (utils, "add_noisy_embeddings", noise.add_noisy_embeddings),
        (torch.cuda, "empty_cache", lambda: None),  # main_ds.py:433: waits for the device at each step's end
        (masking_utils, "find_packed_sequence_indices", no_packed_sequences),
        (fsdp_state, "_common_unshard_pre_state_dict_hook", unshard_without_offload(unshard)),
    ):
        yield


def skip_metric_logger(*_args: Any, **_kwargs: Any) -> None:
    """Traps 8 and 15, logger.py:950@0.16.2: skip the library's metrics, in place of which `loop` writes its own.

    Its steps restart at 1 after a resume, and only the environment variables of MLflow and W&B enable them.
    """
    logging.getLogger("instructlab.training.metrics").propagate = False


def no_packed_sequences(_position_ids: Any) -> None:
    """Say that no mask has to keep the samples of a row apart (transformers masking_utils.py:776@5.23).

    To find it out, transformers waits for the device in every minibatch. Here samples share a row only with attention
    that takes their bounds.
    """


def unshard_without_offload(unshard: Callable[..., Any]) -> Callable[..., Any]:
    """Trap 14, torch 2.13 fsdp/_unshard_param_utils.py:141: NO_SHARD refuses to offload its state when it is saved.

    That happens on a single GPU, too, because torch makes every strategy NO_SHARD there. And what is on the CPU already
    must not be "offloaded": the copy is an alias of storage that FSDP then frees. Remove it when torch supports both.
    """

    def unshard_in_place(module: Any, state: Any, offload_to_cpu: bool, rank0_only: bool) -> Any:
        handle = state._handle
        offload = offload_to_cpu and (handle is None or (handle.uses_sharded_strategy and handle.device.type != "cpu"))
        return unshard(module, state, offload_to_cpu=offload, rank0_only=rank0_only)

    return unshard_in_place


@contextmanager
def trackers_not_importable() -> Iterator[None]:
    """logger.py:79@0.16.2: importing MLflow takes 2 s, and nothing that we use of the library needs it.

    Import the library in the block. Remove it when upstream imports trackers only if they are used.
    """
    for tracker in _TRACKERS:
        sys.modules[tracker] = None  # type: ignore[assignment]  # Python then refuses to import it
    try:
        yield
    finally:
        for tracker in _TRACKERS:
            del sys.modules[tracker]
