"""Owns what a rank computes with: the device that the plan has, and which kernels torch takes on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from sft.adapters.os import driver
from sft.adapters.patched import patched, patched_environment
from sft.errors import StageError


def check_device(*, on_gpu: bool) -> None:
    """Refuse another device than the plan's, which names it in the record.

    Raises:
        StageError: torch finds no GPU where the plan has one, or one where the plan has none.
    """
    import torch

    found = torch.cuda.is_available()
    if on_gpu and not found:
        of_driver = driver.installed_driver()
        versions = f"torch {torch.__version__}, built for CUDA {torch.version.cuda or '(none)'}"
        cuda = f" (CUDA {of_driver.cuda})" if of_driver.cuda else ""
        raise StageError(
            f"this training is to run on a GPU, and torch finds none: {versions}; driver "
            f"{of_driver.version or 'not found'}{cuda}",
            fix="install the driver that torch needs, or a torch for this driver; "
            "training.launcher.gpus_per_worker=0 trains on the CPU",
        )
    if found and not on_gpu:
        raise StageError(
            f"torch finds {torch.cuda.get_device_name(0)}, and this training is to run on the CPU: sft asks nvidia-smi "
            "which GPUs are here",
            fix="put nvidia-smi on PATH, or hide the GPU (CUDA_VISIBLE_DEVICES= HIP_VISIBLE_DEVICES=)",
        )


@contextmanager
def patched_kernels(*, precision: str, on_gpu: bool, deterministic: bool) -> Iterator[None]:
    """Let torch take the right kernels until the block ends.

    Args:
        precision: ``bf16`` or ``fp32``.
        on_gpu: Whether the ranks compute on GPUs.
        deterministic: Whether the same inputs have to give the same bits.
    """
    with (
        repeated_keys() if on_gpu and precision == "fp32" else nullcontext(),
        deterministic_algorithms() if deterministic else nullcontext(),
    ):
        yield


@contextmanager
def repeated_keys() -> Iterator[None]:
    """Trap 28, transformers integrations/sdpa_attention.py:41: give attention each key as often as it has queries.

    In fp32 CUDA's only kernel for keys that several queries share makes the whole matrix of scores, whose size is the
    square of a row's tokens. With repeated keys torch takes its memory-efficient one.
    """
    from transformers.integrations import sdpa_attention

    with patched((sdpa_attention, "use_gqa_in_sdpa", never)):
        yield


def never(*_args: Any, **_kwargs: Any) -> bool:
    """Return False."""
    return False


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Make torch take kernels that give the same bits each time, and raise where it has none. CUDA must not be at work.

    cuBLAS and flash attention's backward pass read it in the environment when they are first used (cuBLAS guide,
    "Results Reproducibility"; transformers modeling_flash_attention_utils.py:696).
    """
    import torch

    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch refuses those that are not deterministic
    variables = {"CUBLAS_WORKSPACE_CONFIG": workspace, "FLASH_ATTENTION_DETERMINISTIC": "1"}
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time; nothing here reads what wasn't written
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        with patched_environment(**variables):
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fills
        torch.backends.cudnn.benchmark = benchmark


def explained(main: Callable[[], None], *, deterministic: bool) -> None:
    """Run `main`, and name the setting if torch has no deterministic kernel for something.

    Raises:
        StageError: It has none.
    """
    try:
        main()
    except RuntimeError as error:
        if deterministic and "does not have a deterministic implementation" in str(error):
            fix = "set training.deterministic=false; equal runs then differ in the last bits"
            raise StageError(f"training.deterministic=true: {error}", fix=fix) from error
        raise
