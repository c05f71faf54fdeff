"""What a machine lacks for a training is refused before it begins, each with its fix."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.os import driver, gpus, machine
from sft.adapters.os.driver import Driver, Torch
from sft.config.schema import (
    BaseQuantization,
    Compile,
    LauncherConfig,
    LauncherKind,
    LoraConfig,
    ModelConfig,
    ModelSource,
    RunConfig,
    TrainingConfig,
)
from sft.errors import SftError
from sft.planning import machine_needs
from sft.planning.resources import Resources, resolve_resources

MATRIX = """ \tGPU0\tGPU1\tGPU2
 GPU0\tX\tOK\tNS
 GPU1\tOK\tX\tOK
 GPU2\tNS\tOK\tX

Legend:
  X    = Self
  OK   = Status Ok
"""


@pytest.fixture
def on_gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this machine one of two GPUs that suffice, but for what is given."""

    def make(**facts: Any) -> None:
        settled = {
            "torch": Torch(version="2.13.0", cuda="13.0"),
            "driver": Driver(version="580.95.05", cuda="13.0"),
            "capability": (9, 0),
            "free": 70 << 30,
            **facts,
        }
        monkeypatch.setattr(machine, "gpus", lambda: ("NVIDIA H200", "NVIDIA H200"))
        monkeypatch.setattr(machine, "compute_capability", lambda: settled["capability"])
        monkeypatch.setattr(machine, "gpu_bytes", lambda: settled["free"])
        monkeypatch.setattr(machine, "gpu_total_bytes", lambda: 80 << 30)
        monkeypatch.setattr(driver, "installed_torch", lambda: settled["torch"])
        monkeypatch.setattr(driver, "installed_driver", lambda: settled["driver"])
        monkeypatch.setattr(gpus, "ask", lambda *_: (0, settled.get("matrix", "")))
        monkeypatch.setattr(machine_needs, "_size_of", lambda _: settled.get("shared", 8 << 30))

    return make


def run(root: Path, **training: Any) -> tuple[RunConfig, Resources]:
    cfg = RunConfig(
        run_root=str(root), model=ModelConfig(source=ModelSource.scratch), training=TrainingConfig(**training)
    )
    return cfg, resolve_resources(cfg.training)


def missing(root: Path, **training: Any) -> str:
    return "\n".join(f"{each.rule}; {each.fix}" for each in machine_needs.missing_for(*run(root, **training)))


def test_nothing_is_missing_where_all_suffices(on_gpus: Any, tmp_path: Path) -> None:
    on_gpus()
    assert missing(tmp_path) == ""
    machine_needs.check(*run(tmp_path))


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"torch": Torch(version="2.13.0+cpu", cuda=None)}, ["2.13.0+cpu is a build without CUDA", "580.95.05"]),
        ({"driver": Driver(version="550.54.15", cuda="12.4")}, ["torch 2.13.0 is built for CUDA 13.0", "550.54.15"]),
        ({"capability": (6, 1)}, ["below compute capability 7.5, this GPU's is 6.1"]),
        ({"shared": 64 << 20}, ["/dev/shm has 64 MiB", "--shm-size=1g"]),
        ({"free": 100 << 20}, ["0.1 GiB are free of the GPU's 80.0"]),
    ],
)
def test_what_is_missing_is_named(facts: dict[str, Any], named: list[str], on_gpus: Any, tmp_path: Path) -> None:
    on_gpus(**facts)
    text = missing(tmp_path)
    assert all(words in text for words in named), text
    with pytest.raises(SftError, match="this machine can't do the training"):
        machine_needs.check(*run(tmp_path))


def test_a_training_on_the_cpu_asks_nothing_of_the_gpus(on_gpus: Any, tmp_path: Path) -> None:
    on_gpus(torch=Torch(version="2.13.0+cpu", cuda=None), shared=0)
    assert missing(tmp_path, launcher=LauncherConfig(gpus_per_worker=0)) == ""


def test_shared_memory_matters_where_ranks_share(on_gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpus(shared=64 << 20)
    assert missing(tmp_path, launcher=LauncherConfig(gpus_per_worker=1)) == ""
    monkeypatch.setenv("NCCL_SHM_DISABLE", "1")
    assert missing(tmp_path) == ""


def test_a_machine_that_can_not_compile_is_refused_where_layers_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpus", tuple)
    monkeypatch.setattr(machine, "cpp_compiler", lambda: None)
    assert missing(tmp_path) == ""
    text = missing(tmp_path, compile=Compile.regional)
    assert text.startswith("training.compile=regional: there is no C++ compiler")
    assert "training.compile=none" in text


def test_a_disk_that_the_states_would_fill_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", tuple)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20, total=1 << 40))
    root = tmp_path / "not" / "yet" / "there"
    text = missing(root, num_epochs=2, keep_full_states=3)
    assert "GiB are free, and training writes up to" in text
    cfg, resources = run(root, num_epochs=2)
    assert list(machine_needs.missing_for(cfg, resources, kept_bytes=1 << 40)) == []


def test_nothing_is_known_of_pods(on_gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpus(torch=Torch(version="2.13.0+cpu", cuda=None), matrix=MATRIX)
    pods = LauncherConfig(kind=LauncherKind.kubeflow, gpus_per_worker=2)
    assert missing(tmp_path, launcher=pods) == ""
    assert list(machine_needs.notes(*run(tmp_path, launcher=pods))) == []


def test_gpus_that_can_not_reach_each_other_and_little_shared_memory_are_said(on_gpus: Any, tmp_path: Path) -> None:
    on_gpus(matrix=MATRIX, shared=256 << 20)
    apart, shared = machine_needs.notes(*run(tmp_path))
    assert apart.startswith("GPUs 0-2 can't reach each other's memory")
    assert "has 256 MiB" in shared


def test_a_matrix_without_gpus_has_no_pair() -> None:
    assert machine_needs.unreachable("") == ""
    assert machine_needs.unreachable("No devices were found") == ""


def test_of_an_unknown_model_nothing_is_missed(on_gpus: Any, tmp_path: Path) -> None:
    on_gpus(free=1)
    cfg, resources = run(tmp_path)
    unknown = replace(cfg, model=ModelConfig(name_or_path=str(tmp_path)))
    assert list(machine_needs.missing_for(unknown, resources)) == []


def test_a_base_in_4_bits_needs_bitsandbytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    lora = LoraConfig(rank=4, quantize=BaseQuantization.nf4)
    said = missing(tmp_path, lora=lora)
    assert said.startswith("training.lora.quantize=nf4: bitsandbytes is not installed; pip install 'sft-runner[qlora]'")
    for other in (LoraConfig(rank=4), replace(lora, rank=0)):
        assert "bitsandbytes" not in missing(tmp_path, lora=other)
    pods = LauncherConfig(kind=LauncherKind.kubeflow, image="here/sft@sha256:0")
    assert "bitsandbytes" not in missing(tmp_path, lora=lora, launcher=pods)
    notes = resolve_resources(TrainingConfig(lora=lora, launcher=pods)).notes
    assert "training.lora.quantize=nf4: training.launcher.image must have bitsandbytes (EXTRAS=qlora)" in notes
