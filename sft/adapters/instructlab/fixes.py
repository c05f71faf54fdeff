"""What is mended in instructlab-training 0.16.2, and what of its hard-coded choices becomes an option.

One function per trap of ``docs/backend.md``; each cites ``file:line@version`` and says when it can go. They
replace names inside the library's modules for as long as a block runs; ``tests/contract`` holds the names.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

log = logging.getLogger(__name__)

WHOLE = ".whole"
"""Marks a full state that every rank has written to its end."""

Pack = Callable[..., list[list[int]]]


@contextmanager
def options(*, mixed_precision: str, num_workers: int, gradient_checkpointing: bool) -> Iterator[None]:
    """Sets what the library hard-codes: bf16, 8 loader workers, gradient checkpointing.

    Args:
        mixed_precision: accelerate's name: ``bf16`` or ``no``.
        num_workers: Data loader processes per rank.
        gradient_checkpointing: Whether activations are recomputed in the backward pass.
    """
    from instructlab.training import accelerator, main_ds, model

    make_accelerator, make_loader = accelerator.TransformersAccel, main_ds.get_data_loader

    def with_precision(*args: Any, **kwargs: Any) -> Any:  # accelerator.py:85
        return make_accelerator(*args, **{**kwargs, "mixed_precision": mixed_precision})

    def with_workers(*args: Any, **kwargs: Any) -> Any:  # main_ds.py:645
        return make_loader(*args, **{**kwargs, "num_workers": num_workers})

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(accelerator, "TransformersAccel", with_precision))
        patches.enter_context(mock.patch.object(main_ds, "get_data_loader", with_workers))
        if not gradient_checkpointing:
            name = "_enable_gradient_checkpointing_if_supported"
            patches.enter_context(mock.patch.object(model.Model, name))
        yield


@contextmanager
def mended() -> Iterator[None]:
    """All mends at once."""
    from instructlab.training import main_ds, sampler

    cache_compiled_packer()
    replaced: list[tuple[Any, str, object]] = [
        (sampler, "batch_lengths_to_minibatches_padded", even_counts(sampler.batch_lengths_to_minibatches_padded)),
        (main_ds, "load_latest_full_state", whole_states_only(main_ds.load_latest_full_state)),
        (main_ds, "save_checkpoint", keeping_the_newest(main_ds.save_checkpoint)),
    ]
    with ExitStack() as patches:
        for owner, name, value in replaced:
            patches.enter_context(mock.patch.object(owner, name, value))
        yield


def even_counts(pack: Pack) -> Pack:
    """Trap 11, padded_batch_packer.py:200@0.16.2: ranks get unequal numbers of minibatches, and FSDP deadlocks.

    The ranks with fewer get minibatches of the dummy sample (``[-1]``), which has no loss token. Can go when the
    padded packer equalises its ranks itself, as the packer for flash attention does.
    """

    def pack_evenly(lengths: list[int], max_tokens: int, num_ranks: int, rank: int, *rest: Any) -> list[list[int]]:
        every = [pack(lengths, max_tokens, num_ranks, other, *rest) for other in range(num_ranks)]
        return every[rank] + [[-1]] * (max(map(len, every)) - len(every[rank]))

    return pack_evenly


def whole_states_only(load: Callable[..., None]) -> Callable[..., None]:
    """Trap 13, utils.py:916@0.16.2: the newest full state is loaded, even one that a kill cut short.

    A state without the mark of `keeping_the_newest` is removed by the main process before any rank loads one. Can go
    when states are published atomically upstream.
    """

    def load_whole(args: Any, accelerator: Any) -> None:
        import torch.distributed as dist

        if dist.get_rank() == 0:
            for state in (Path(args.output_dir) / "full_state").glob("*"):
                if not (state / WHOLE).exists():
                    shutil.rmtree(state)
        dist.barrier()
        load(args=args, accelerator=accelerator)

    return load_whole


def keeping_the_newest(save: Callable[..., None]) -> Callable[..., None]:
    """Trap 13, utils.py:828@0.16.2: nothing says that a full state is whole, and those of all epochs pile up.

    Once every rank has written its part, the state is marked, and what is older than it is removed. Can go when
    upstream publishes states atomically and prunes.
    """

    def save_and_prune(*args: Any, **kwargs: Any) -> None:
        import torch.distributed as dist

        save(*args, **kwargs)
        dist.barrier()
        if dist.get_rank() == 0:
            root = Path(kwargs["args"].output_dir)
            if kwargs.get("full_state"):
                (root / "full_state" / f"epoch_{kwargs['epoch']}" / WHOLE).touch()
            for kind in ("full_state", "hf_format"):
                for older in sorted((root / kind).glob("*"), key=_number)[:-1]:
                    shutil.rmtree(older)
        dist.barrier()

    return save_and_prune


def _number(path: Path) -> int:
    """12 of ``epoch_12`` or ``samples_12``."""
    return int(path.name.rpartition("_")[2])


def without_trackers() -> None:
    """Trap 15, logger.py:79,950@0.16.2: importing MLflow takes 2 s, and its variables alone switch tracking on.

    Called before the library is imported: what the registry stage uses is no order to the trainer. Can go when
    upstream imports trackers where they are asked for.
    """
    for tracker in ("mlflow", "wandb"):
        sys.modules[tracker] = None  # type: ignore[assignment] # what Python takes for "can't be imported"
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        os.environ.pop(variable, None)


def cache_compiled_packer() -> None:
    """padded_batch_packer.py:14@0.16.2: the packers are compiled anew in every process, 2 to 3 s before step 1.

    Turns on numba's own cache on disk, where it finds a folder to write. Can go when upstream says
    ``@njit(cache=True)``.
    """
    from instructlab.training import batch_packer, padded_batch_packer
    from numba.core.dispatcher import Dispatcher

    for module in (padded_batch_packer, batch_packer):
        for function in vars(module).values():
            if isinstance(function, Dispatcher):
                try:
                    function.enable_caching()
                except RuntimeError as error:  # "no locator available": a read-only home and installation
                    log.warning("the packer is compiled in every process: %s", error)
