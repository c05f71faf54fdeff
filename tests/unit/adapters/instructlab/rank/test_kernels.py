"""The device that a rank finds, and the kernels that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank import kernels
from sft.adapters.os import driver
from sft.adapters.os.driver import Driver
from sft.errors import StageError
from tests.support.architectures import tiny

pytestmark = [
    pytest.mark.slow,  # imports torch
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]


@pytest.fixture(autouse=True)
def left_alone() -> Iterator[None]:
    import torch

    yield
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_gpu_that_torch_does_not_find_is_refused_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(driver, "installed_driver", lambda: Driver(version="550.54.15", cuda="12.4"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StageError, match=r"550\.54\.15 \(CUDA 12\.4\)") as caught:
        kernels.check_device(on_gpu=True)
    assert f"torch {torch.__version__}" in caught.value.message
    kernels.check_device(on_gpu=False)


def test_a_gpu_that_the_plan_has_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: True, get_device_name=lambda _: "A GPU"))
    with pytest.raises(StageError, match="torch finds A GPU, and this training is to run on the CPU"):
        kernels.check_device(on_gpu=False)
    kernels.check_device(on_gpu=True)


@pytest.mark.parametrize(("precision", "on_gpu", "shared"), [("fp32", True, False), ("bf16", True, True)])
def test_in_fp32_on_a_gpu_attention_gets_each_key_as_often_as_it_has_queries(
    precision: str, on_gpu: bool, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    model, ids = tiny("llama").eval(), torch.arange(3, 40)[None]
    plain = model(input_ids=ids, use_cache=False).logits
    attend, seen = torch.nn.functional.scaled_dot_product_attention, []

    def noting(query: Any, key: Any, value: Any, **settings: Any) -> Any:
        seen.append((bool(settings.get("enable_gqa")), query.shape[1] == key.shape[1]))
        return attend(query, key, value, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noting)
    with kernels.patched_kernels(precision=precision, on_gpu=on_gpu, deterministic=False):
        found = model(input_ids=ids, use_cache=False).logits
    assert set(seen) == {(shared, not shared)}
    assert (found - plain).abs().max() < 1e-5 * plain.abs().max()


def test_kernels_are_deterministic_where_that_is_asked_for_and_none_is_named_with_the_setting() -> None:
    import torch

    with kernels.patched_kernels(precision="fp32", on_gpu=False, deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()

    def lacking() -> None:
        raise RuntimeError("some_op does not have a deterministic implementation, but you set ...")

    with pytest.raises(StageError, match=r"training\.deterministic=true: some_op") as caught:
        kernels.explained(lacking, deterministic=True)
    assert "training.deterministic=false" in str(caught.value.fix)
    with pytest.raises(RuntimeError):
        kernels.explained(lacking, deterministic=False)


def test_what_cublas_and_flash_attention_read_stands_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with kernels.patched_kernels(precision="bf16", on_gpu=True, deterministic=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"  # the recipe's own stays
        assert os.environ["FLASH_ATTENTION_DETERMINISTIC"] == "1"
