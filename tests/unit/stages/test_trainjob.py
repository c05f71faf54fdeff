"""What the pods of a TrainJob must be able to see, said before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.config.schema import LauncherConfig, LauncherKind, ModelConfig, ModelSource, RunConfig, TrainingConfig
from sft.errors import ConfigError
from sft.stages.launcher import launcher_of
from sft.stages.trainjob import check_volume


def config(mount: Path, run_root: Path, **model: object) -> RunConfig:
    launcher = LauncherConfig(kind=LauncherKind.kubeflow, gpus_per_worker=1, mount_path=str(mount))
    made = ModelConfig(**model)  # type: ignore[arg-type]
    return RunConfig(run_root=str(run_root), model=made, training=TrainingConfig(launcher=launcher))


def problems(cfg: RunConfig) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_volume(cfg)
    return [str(problem) for problem in caught.value.problems]


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A volume with the hub's cache on it."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "volume" / "huggingface"))
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def test_a_run_root_on_the_volume_with_a_model_from_its_cache_is_right(mount: Path) -> None:
    check_volume(config(mount, mount / "runs"))


def test_a_volume_that_is_reached_through_a_link_is_the_same_volume(mount: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(mount)
    check_volume(config(mount, tmp_path / "link" / "runs"))


def test_a_run_root_elsewhere_is_refused_with_the_one_to_say(mount: Path, tmp_path: Path) -> None:
    assert problems(config(mount, tmp_path / "runs")) == [
        f"run_root={tmp_path}/runs: must lie under training.launcher.mount_path={mount}, where the pods see the volume "
        f"sft-workspace; mount the volume at {mount} here too, and say run_root={mount}/runs"
    ]


def test_the_hubs_cache_elsewhere_is_refused_with_the_variable_to_set(
    mount: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    [problem] = problems(config(mount, mount / "runs"))
    assert problem.startswith(f"HF_HOME={tmp_path}/home/hub: must lie under")
    assert problem.endswith(f"set HF_HOME={mount}/huggingface: the downloaded model is kept there")


def test_a_local_model_elsewhere_is_refused_and_one_on_the_volume_needs_no_cache(
    mount: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "model").mkdir()
    [problem] = problems(config(mount, mount / "runs", name_or_path=str(tmp_path / "model")))
    assert problem.endswith(f"copy it to {mount}/models")
    (mount / "model").mkdir()
    check_volume(config(mount, mount / "runs", name_or_path=str(mount / "model")))


def test_a_model_from_nothing_lies_in_the_store(mount: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    check_volume(config(mount, mount / "runs", source=ModelSource.scratch))


def test_a_run_that_trains_here_needs_no_volume(tmp_path: Path) -> None:
    cfg = RunConfig(run_root=str(tmp_path))
    launcher_of(cfg.training.launcher).check_settings(cfg)
