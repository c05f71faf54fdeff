"""Copies of a full state need room in the memory of the machine whose GPUs train; where there is none, ranks wait."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.os import machine
from sft.config.schema import LauncherConfig, LauncherKind, ModelConfig, RunConfig, TrainingConfig
from sft.planning import resources
from sft.planning.resources import resources_of
from tests.unit.planning.test_memory import COUNT, QWEN

GPU = "NVIDIA H100 80GB HBM3"


def planned(folder: Path, launcher: LauncherConfig | None = None, **settings: Any) -> resources.Resources:
    (folder / "config.json").write_text(json.dumps(QWEN))
    training = TrainingConfig(num_epochs=2, launcher=launcher or LauncherConfig(), **settings)
    return resources_of(RunConfig(model=ModelConfig(name_or_path=str(folder)), training=training))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (GPU,) * 2)
    monkeypatch.setattr(machine, "compute_capability", lambda: (9, 0))
    monkeypatch.setattr(machine, "gpu_total_bytes", lambda: 80 * 2**30)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("free", "goes_on"), [(12 * COUNT, True), (12 * COUNT - 2, False)])
def test_ranks_wait_where_their_copies_do_not_fit(
    free: int, goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "host_bytes", lambda: free)
    found = planned(tmp_path)
    assert found.async_states is goes_on
    why = "copies of a full state would take 17.3 GiB of host memory, and 17.3 are free"
    note = f"training.async_states=true: {why}; ranks wait while a full state is written"
    assert (note in found.notes) is not goes_on
    assert found.reasons.get("async_states") == (None if goes_on else why)


def test_a_pods_memory_is_what_the_recipe_says(tmp_path: Path) -> None:
    launcher = LauncherConfig(kind=LauncherKind.kubeflow, num_workers=2, gpus_per_worker=4, memory="8Gi")
    found = planned(tmp_path, launcher)  # 8 ranks in 2 pods
    assert found.reasons["async_states"].endswith("would take 8.6 GiB of host memory, and a pod has 8.0")
    launcher.memory = "9Gi"
    assert planned(tmp_path, launcher).async_states


@pytest.mark.usefixtures("two_gpus")
def test_of_a_model_that_is_not_known_nothing_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "host_bytes", lambda: 0)
    monkeypatch.setitem(QWEN, "model_type", "unheard-of")
    assert planned(tmp_path).async_states
