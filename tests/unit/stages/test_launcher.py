"""Each launcher is told apart in one place, and a training on this machine gets what was resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.config.schema import LauncherConfig, LauncherKind, RunConfig, TrainingConfig
from sft.errors import ConfigError
from sft.progress import Progress
from sft.stages.launcher import launcher_of


@pytest.mark.parametrize("kind", LauncherKind)
def test_every_kind_has_a_launcher(kind: LauncherKind) -> None:
    launcher = launcher_of(LauncherConfig(kind=kind))
    assert all(callable(part) for part in vars(launcher).values())


def test_only_a_cluster_has_a_volume() -> None:
    here = LauncherConfig()
    there = LauncherConfig(kind=LauncherKind.kubeflow, pvc="claim", mount_path="/data")
    assert launcher_of(here).volume(here) is None
    assert launcher_of(there).volume(there) == "claim:/data"


def test_a_training_here_asks_nobody_and_needs_no_volume(tmp_path: Path) -> None:
    cfg = RunConfig(run_root=str(tmp_path))
    launcher = launcher_of(cfg.training.launcher)
    launcher.check_settings(cfg)
    launcher.check_access(cfg.training, "run", Progress(quiet=True))


def test_a_training_on_a_cluster_is_refused_where_its_pods_see_nothing(tmp_path: Path) -> None:
    there = LauncherConfig(kind=LauncherKind.kubeflow, mount_path="/nowhere")
    cfg = RunConfig(run_root=str(tmp_path), training=TrainingConfig(launcher=there))
    with pytest.raises(ConfigError, match="run_root="):
        launcher_of(there).check_settings(cfg)
