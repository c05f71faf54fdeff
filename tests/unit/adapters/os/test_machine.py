"""What the driver's program says of GPUs, and which of them a process sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.adapters.os import gpus, machine

SMI = """#!/bin/sh
echo '0, GPU-5d, NVIDIA H200, 9.0, 143771, 143000, Disabled'
echo '1, GPU-7e, NVIDIA A100, 8.0, 81920, 1024, Disabled'
"""


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder on PATH; nothing is remembered from before, or for later."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that `undo` knows what it was, whatever a test makes of it
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    machine.use_gpus(None)
    yield tmp_path
    monkeypatch.undo()
    gpus.forget()


@pytest.fixture
def two_gpus(path: Path) -> None:
    """Two GPUs, by the driver's program."""
    (path / "nvidia-smi").write_text(SMI)
    (path / "nvidia-smi").chmod(0o755)


def test_a_machine_without_the_driver_is_a_cpu() -> None:
    assert (machine.gpus(), machine.device(), machine.gpu_bytes()) == ((), "cpu", 0)
    assert machine.compute_capability() == (0, 0)
    assert not machine.runs_liger()


def test_a_driver_without_a_device_is_a_cpu(path: Path) -> None:
    (path / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    (path / "nvidia-smi").chmod(0o755)
    assert machine.gpus() == ()


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_named_and_the_least_of_each_counts() -> None:
    assert machine.gpus() == ("NVIDIA H200", "NVIDIA A100")
    assert machine.gpu_ids() == ("0", "1")
    assert machine.device() == "NVIDIA H200"
    assert machine.compute_capability() == (8, 0)
    assert (machine.gpu_bytes(), machine.gpu_total_bytes()) == (1024 << 20, 81920 << 20)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("visible", ["0", "GPU-5d"])
def test_facts_are_those_of_the_visible_gpus(visible: str) -> None:
    machine.use_gpus(visible)
    assert (machine.gpus(), machine.gpu_ids()) == (("NVIDIA H200",), (visible,))
    assert (machine.compute_capability(), machine.gpu_bytes()) == ((9, 0), 143000 << 20)


@pytest.mark.parametrize(("cc", "names", "found"), [("", ["clang"], "clang"), ("mycc", ["gcc"], None), ("", [], None)])
def test_the_c_compiler_is_the_one_that_triton_takes(
    cc: str, names: list[str], found: str | None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", cc)
    for name in names:
        (path / name).write_text("")
        (path / name).chmod(0o755)
    assert machine.c_compiler() == (found and str(path / found))


def test_the_cpp_compiler_is_the_one_that_torch_takes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("CXX", raising=False)
    assert machine.cpp_compiler() is None
    for name in ("g++", "mine"):
        (path / name).write_text("")
        (path / name).chmod(0o755)
    assert machine.cpp_compiler() == str(path / "g++")
    monkeypatch.setenv("CXX", "mine")
    assert machine.cpp_compiler() == str(path / "mine")


def test_pythons_header_is_where_python_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert machine.python_headers() is None
    (tmp_path / "Python.h").touch()
    assert machine.python_headers() == tmp_path / "Python.h"


def test_a_host_has_memory() -> None:
    assert machine.host_bytes() > 1 << 20
