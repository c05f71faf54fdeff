"""What is mended in instructlab-training 0.16.2, and what of its hard-coded choices becomes an option.

One function per trap of ``docs/backend.md``; each cites ``file:line@version`` and says when it can go. They
replace names inside the library's modules for as long as a block runs; ``tests/contract`` holds the names.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

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

    def with_precision(*args: Any, **kwargs: Any) -> Any:  # accelerator.py:Accelerator.__init__
        return make_accelerator(*args, **{**kwargs, "mixed_precision": mixed_precision})

    def with_workers(*args: Any, **kwargs: Any) -> Any:  # main_ds.py:main num_workers=8
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
    """Trap 11, padded_batch_packer.py:194@0.16.2: ranks get unequal numbers of minibatches, and FSDP deadlocks.

    The ranks with fewer get minibatches of the dummy sample (``[-1]``), which has no loss token. Can go when the
    padded packer equalises its ranks itself, as the packer for flash attention does.
    """

    def pack_evenly(lengths: list[int], max_tokens: int, num_ranks: int, rank: int, *rest: Any) -> list[list[int]]:
        every = [pack(lengths, max_tokens, num_ranks, other, *rest) for other in range(num_ranks)]
        return every[rank] + [[-1]] * (max(map(len, every)) - len(every[rank]))

    return pack_evenly


def whole_states_only(load: Callable[..., None]) -> Callable[..., None]:
    """Trap 13, utils.py:916@0.16.2: the newest full state is loaded, even one that a kill cut short.

    A state is whole once its metadata, which is written last, can be read; others are removed by the main process.
    Can go when states are published atomically upstream.
    """

    def load_whole(args: Any, accelerator: Any) -> None:
        import torch.distributed as dist

        if dist.get_rank() == 0:
            for state in (Path(args.output_dir) / "full_state").glob("*"):
                if not is_whole(state):
                    shutil.rmtree(state)
        dist.barrier()
        load(args=args, accelerator=accelerator)

    return load_whole


def is_whole(state: Path) -> bool:
    """Whether a full state was written to its end."""
    import pickle

    import torch

    try:
        torch.load(state / "training_metadata.json")
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError):
        return False
    return True


def keeping_the_newest(save: Callable[..., None]) -> Callable[..., None]:
    """Trap 13, utils.py:828@0.16.2: full states and checkpoints of all epochs pile up.

    What is older than the one just written is removed once that one is whole. Can go when upstream prunes.
    """

    def save_and_prune(*args: Any, **kwargs: Any) -> None:
        import torch.distributed as dist

        save(*args, **kwargs)
        dist.barrier()
        if dist.get_rank() == 0:
            root = Path(kwargs["args"].output_dir)
            for kind in ("full_state", "hf_format"):
                for older in sorted((root / kind).glob("*"), key=_number)[:-1]:
                    shutil.rmtree(older)
        dist.barrier()

    return save_and_prune


def _number(path: Path) -> int:
    """12 of ``epoch_12`` or ``samples_12``."""
    return int(path.name.rpartition("_")[2])


def cache_compiled_packer() -> None:
    """padded_batch_packer.py:14@0.16.2: the packers are compiled anew in every process, 2 to 3 s before step 1.

    Turns on numba's own cache on disk. Can go when upstream says ``@njit(cache=True)``.
    """
    from instructlab.training import batch_packer, padded_batch_packer
    from numba.core.dispatcher import Dispatcher

    for module in (padded_batch_packer, batch_packer):
        for function in vars(module).values():
            if isinstance(function, Dispatcher):
                function.enable_caching()
