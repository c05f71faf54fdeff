"""What the driver's program says of GPUs, and which of them a process sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.adapters.os import machine

SMI = """#!/bin/sh
case "$1" in
  --query-gpu=name) printf 'NVIDIA H200\\nNVIDIA A100\\n' ;;
  --query-gpu=compute_cap) printf '9.0\\n8.0\\n' ;;
  --query-gpu=memory.total) printf '143771 MiB\\n81920 MiB\\n' ;;
  *) exit 2 ;;
esac
"""


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder on PATH; nothing is remembered from before, or for later."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine.use_gpus(None)
    yield tmp_path
    monkeypatch.undo()
    for remembered in (machine.gpus, machine.compute_capability, machine.gpu_bytes):
        remembered.cache_clear()


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
def test_gpus_are_named_and_the_smallest_memory_counts() -> None:
    assert machine.gpus() == ("NVIDIA H200", "NVIDIA A100")
    assert machine.device() == "NVIDIA H200"
    assert machine.compute_capability() == (9, 0)
    assert machine.gpu_bytes() == 81920 << 20


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1", ("NVIDIA A100",)),
        ("", ()),
        ("-1", ()),
        ("1,0", ("NVIDIA A100", "NVIDIA H200")),
        ("GPU-5d", ("NVIDIA H200",)),
    ],
)
def test_only_visible_gpus_count(visible: str, names: tuple[str, ...]) -> None:
    machine.use_gpus(visible)
    assert machine.gpus() == names


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("visible", "ids"), [(None, ("0", "1")), ("1", ("1",)), ("GPU-5d", ("GPU-5d",)), ("", ())])
def test_gpus_have_the_ids_by_which_a_process_is_given_one(visible: str | None, ids: tuple[str, ...]) -> None:
    machine.use_gpus(visible)
    assert machine.gpu_ids() == ids


def test_a_host_has_memory() -> None:
    assert machine.host_bytes() > 1 << 20
