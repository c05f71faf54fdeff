"""What the driver's program says of GPUs, and which of them CUDA would show to a process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sft.adapters.os import gpus, machine
from sft.errors import SftError

H200 = "0, GPU-5d11aaaa, NVIDIA H200, 9.0, 143771, 140000, Disabled"
A100 = "1, GPU-7e22bbbb, NVIDIA A100, 8.0, 81920, 1024, Disabled"
DIVIDED = "1, GPU-7e22bbbb, NVIDIA A100, 8.0, 81920, 1024, Enabled"
PARTS = """GPU 0: NVIDIA H200 (UUID: GPU-5d11aaaa)
GPU 1: NVIDIA A100 (UUID: GPU-7e22bbbb)
  MIG 3g.40gb     Device  0: (UUID: MIG-c7aa)
  MIG 1g.10gb     Device  1: (UUID: MIG-d8bb)
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes a driver's program, the only one on PATH but for the shell's; nothing is remembered afterwards."""

    def make(*lines: str, parts: str = "", before: str = "") -> None:
        listed = "\n".join(lines)
        text = f"#!/bin/sh\n{before}\ncase $1 in\n-L) cat <<'E'\n{parts}E\n;;\n*) cat <<'E'\n{listed}\nE\n;;\nesac\n"
        (tmp_path / "nvidia-smi").write_text(text)
        (tmp_path / "nvidia-smi").chmod(0o755)
        gpus.forget()

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that `undo` knows what it was, whatever a test makes of it
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    machine.use_gpus(None)
    yield make
    monkeypatch.undo()
    gpus.forget()


def test_a_gpu_has_its_facts(driver: Callable[..., None]) -> None:
    driver(H200, A100)
    first, second = gpus.visible()
    assert (first.name, first.capability, first.total_bytes) == ("NVIDIA H200", (9, 0), 143771 << 20)
    assert (second.id, second.uuid, second.free_bytes) == ("1", "GPU-7e22bbbb", 1024 << 20)


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),  # CUDA ignores what comes after an id that it doesn't know
        ("7", []),
        ("GPU-7e", ["GPU-7e"]),
        ("GPU-99", []),
        ("0, 1", ["0", "1"]),
        ("0,0", ["0"]),
    ],
)
def test_what_a_process_sees_is_what_cuda_would_show_it(
    visible: str, ids: list[str], driver: Callable[..., None]
) -> None:
    driver(H200, A100)
    machine.use_gpus(visible)
    assert [gpu.id for gpu in gpus.visible()] == ids


@pytest.mark.parametrize(
    ("visible", "ids"), [("1", ["MIG-c7aa"]), ("MIG-d8bb", ["MIG-d8bb"]), ("MIG-c7aa,MIG-d8bb", ["MIG-c7aa"])]
)
def test_of_a_divided_gpu_a_process_sees_one_part(visible: str, ids: list[str], driver: Callable[..., None]) -> None:
    driver(H200, DIVIDED, parts=PARTS)
    machine.use_gpus(visible)
    assert [gpu.id for gpu in gpus.visible()] == ids
    [part] = gpus.visible()
    assert part.name.startswith("NVIDIA A100 MIG ")
    assert 9 * 10**9 < part.free_bytes < 50 * 10**9


def test_a_machine_of_divided_gpus_has_one_device(driver: Callable[..., None]) -> None:
    driver(DIVIDED, parts=PARTS)
    assert machine.gpus() == ("NVIDIA A100 MIG 3g.40gb",)


def test_whole_gpus_beside_a_divided_one_are_seen(driver: Callable[..., None]) -> None:
    driver(H200, DIVIDED, parts=PARTS)
    assert machine.gpus() == ("NVIDIA H200",)


def test_a_driver_that_does_not_answer_is_an_error_with_a_fix(
    driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "SMI_SECONDS", 0.2)
    driver(H200, before="exec sleep 30")
    with pytest.raises(SftError, match=r"has not answered in 0\.2 s") as caught:
        machine.gpus()
    assert "persistence mode" in str(caught.value.fix)


def test_a_driver_that_fails_is_told_from_a_machine_without_a_gpu(driver: Callable[..., None]) -> None:
    driver(before="echo can not communicate with the NVIDIA driver; exit 9")
    assert machine.gpus() == ()
    assert machine.gpu_trouble() == "can not communicate with the NVIDIA driver"
    driver(before="echo No devices were found; exit 6")
    assert (machine.gpus(), machine.gpu_trouble()) == ((), "")


def test_memory_that_the_driver_does_not_know_is_not_known(driver: Callable[..., None]) -> None:
    driver("0, GPU-1, NVIDIA GB10, 12.1, [N/A], [N/A], [N/A]")
    assert (machine.gpus(), machine.gpu_bytes()) == (("NVIDIA GB10",), 0)


def test_an_answer_that_is_not_understood_is_an_error(driver: Callable[..., None]) -> None:
    driver("something else")
    with pytest.raises(SftError, match="'something else' of a GPU, which is not understood"):
        machine.gpus()


def test_without_the_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    gpus.forget()
    assert (gpus.visible(), gpus.trouble(), gpus.ask()) == ((), "", (None, ""))
    monkeypatch.undo()
    gpus.forget()
    assert "PATH" in os.environ
