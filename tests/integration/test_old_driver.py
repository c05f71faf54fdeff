"""A machine whose GPUs torch can't use: nothing is trained, least of all on the CPU under a GPU's name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.adapters.os import driver, gpus
from tests.support.command import sft_in_process

SMI = """#!/bin/sh
case $1 in
--query-gpu=*) echo '0, GPU-5d, NVIDIA H200, 9.0, 143771, 143000, Disabled' ;;
*) echo '| NVIDIA-SMI 390.48    Driver Version: 390.48    CUDA Version: 9.1 |' ;;
esac
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """PATH with a driver's program that tells of a GPU and an old driver."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text(SMI)
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    for forget in (gpus.forget, driver.installed_driver.cache_clear):
        forget()
    yield f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    for forget in (gpus.forget, driver.installed_driver.cache_clear):
        forget()


def test_the_plan_refuses_it_with_both_versions_and_a_run_stops_before_it_does_anything(
    path: str, tmp_path: Path
) -> None:
    plan = sft_in_process("plan", "quickstart", cwd=tmp_path, PATH=path)
    refused = "".join(line for line in plan.out.splitlines() if line.startswith("refused"))
    assert refused, plan
    assert "torch finds none of the GPUs that nvidia-smi shows: torch " in refused
    assert "driver is 390.48 (CUDA 9.1)" in refused
    assert "NCCL takes one rank per GPU, and 1 GPU trains" in plan.out  # the quickstart asks for two
    run = sft_in_process("run", "quickstart", cwd=tmp_path, PATH=path)
    assert run.status == 1
    assert "this machine can't do the training:" in run.err
    assert "390.48" in run.err
    assert not list(tmp_path.glob("runs/store/dataset/*"))


def test_the_cpu_trains_where_that_is_asked_for(path: str, tmp_path: Path) -> None:
    plan = sft_in_process("plan", "quickstart", "training.launcher.gpus_per_worker=0", cwd=tmp_path, PATH=path)
    assert "refused" not in plan.out
    assert "training.launcher.gpus_per_worker=0" in next(line for line in plan.out.splitlines() if " device " in line)
