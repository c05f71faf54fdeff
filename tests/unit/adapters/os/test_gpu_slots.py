"""A machine divided: each run sees its part of the GPUs, or of the cores, and gives it back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.adapters.os import machine
from sft.adapters.os.gpu_slots import GpuSlots, slots

_HOLD = """
import sys, time
from pathlib import Path
from sft.adapters.os.gpu_slots import GpuSlots
with GpuSlots(1, (), ()).acquire(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def four_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A driver's program that tells of four GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor n in 0 1 2 3; do echo $n, GPU-id-$n, GPU-$n, 9.0, 9, 9, Disabled; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that `undo` knows what it was, whatever a test makes of it
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    machine.use_gpus(None)
    yield
    monkeypatch.undo()
    machine.use_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))


def test_gpus_are_divided_and_all_are_there_afterwards(four_gpus: None) -> None:
    parts = slots(2)
    seen = []
    for place in range(2):
        with parts.restricted_to(place):
            seen.append((os.environ["CUDA_VISIBLE_DEVICES"], machine.gpus()))
    assert seen == [("0,1", ("GPU-0", "GPU-1")), ("2,3", ("GPU-2", "GPU-3"))]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert len(machine.gpus()) == 4


def test_only_the_gpus_that_are_visible_are_divided(four_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.use_gpus("3,1")
    with slots(2).restricted_to(1):
        assert (os.environ["CUDA_VISIBLE_DEVICES"], machine.gpus()) == ("1", ("GPU-1",))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")
def test_without_gpus_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", tuple)
    before = os.sched_getaffinity(0)
    parts = slots(len(before))
    seen = []
    for place in range(parts.num):
        with parts.restricted_to(place):
            seen.append(os.sched_getaffinity(0))
    assert set().union(*seen) == before
    assert all(len(cores) == 1 for cores in seen)
    assert os.sched_getaffinity(0) == before


def test_a_slot_is_waited_for(tmp_path: Path) -> None:
    alone = GpuSlots(1, (), ())
    order = []

    def second() -> None:
        with alone.acquire(tmp_path):
            order.append("second")

    with alone.acquire(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.5)
        order.append("first")
    other.join(timeout=10)
    assert order == ["first", "second"]


def test_a_killed_run_gives_its_slot_back(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        holder.kill()
        holder.wait()
    with GpuSlots(1, (), ()).acquire(tmp_path):
        pass
