"""Which driver and torch find each other."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from sft.adapters.os import driver, gpus
from sft.adapters.os.driver import Driver, Torch, least_capability, mismatch


@pytest.mark.parametrize(
    ("cuda", "number", "newest", "fits"),
    [
        ("13.0", "580.95.05", "13.0", True),
        ("13.0", "580.95.05", "13.1", True),
        ("13.2", "580.95.05", "13.0", True),  # minor version compatibility
        ("13.0", "550.54.15", "12.4", False),
        ("13.0", "550.54.15", "13.0", True),  # a compatibility package
        ("12.8", "550.54.15", "12.4", True),
        ("12.8", "470.82.01", "11.4", False),
        ("13.0", "550.54.15", None, False),
        ("13.0", "580.95.05", None, True),
        (None, "580.95.05", "13.0", False),
    ],
)
def test_a_driver_that_torch_can_not_use_is_named_with_torch(
    cuda: str | None, number: str, newest: str | None, fits: bool
) -> None:
    why = mismatch(Torch(version="2.13.0", cuda=cuda), Driver(version=number, cuda=newest))
    assert (why is None) is fits
    assert fits or (number in str(why) and "2.13.0" in str(why))


def test_nothing_is_said_of_a_torch_that_is_not_known() -> None:
    assert mismatch(None, Driver(version="580.95.05", cuda="13.0")) is None


def test_torch_is_read_without_an_import() -> None:
    torch = driver.installed_torch()
    assert torch is not None
    assert torch.version == version("torch")


@pytest.mark.parametrize(("cuda", "least"), [("13.0", (7, 5)), ("12.8", (5, 0)), (None, None)])
def test_old_gpus_have_no_kernels(cuda: str | None, least: tuple[int, int] | None) -> None:
    assert least_capability(Torch(version="2.13.0", cuda=cuda)) == least


@pytest.mark.parametrize("line", ["CUDA Version: 13.0", "CUDA UMD Version: 13.0"])
def test_the_driver_says_its_versions(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(
        f"#!/bin/sh\necho '| NVIDIA-SMI 580.95  Driver Version: 580.95.05  {line} |'\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    driver.installed_driver.cache_clear()
    assert driver.installed_driver() == Driver(version="580.95.05", cuda="13.0")
    monkeypatch.undo()
    driver.installed_driver.cache_clear()
    gpus.forget()
