"""What starts the ranks of a training: the one place that tells launchers apart.

Another launcher is another case of `launcher_of`, a member of `LauncherKind` and a YAML (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sft.adapters.instructlab import torchrun
from sft.adapters.instructlab.settings import LaunchSettings, TrainingTask
from sft.adapters.kubeflow.job import JobDisplay
from sft.adapters.os import machine
from sft.config.schema import LauncherConfig, LauncherKind, RunConfig, TrainingConfig
from sft.planning.resources import Resources
from sft.progress import Progress
from sft.stages import trainjob


class TrainFunction(Protocol):
    """Train to the end, from where an earlier try was stopped."""

    def __call__(
        self, cfg: TrainingConfig, task: TrainingTask, resources: Resources, display: JobDisplay, *, detach: bool
    ) -> None:
        """Train.

        Args:
            cfg: The training settings.
            task: What the ranks do.
            resources: What they do it on and with.
            display: Where progress goes.
            detach: Whether to leave the training to itself once it has begun.

        Raises:
            Detached: It was left to itself.
            Preempted: This process was asked to end; the state is saved, or the training continues by itself.
            StageError: A rank failed.
        """


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """A way to start ranks.

    Attributes:
        check_settings: Raises ConfigError if the ranks can't see what the configuration names; asks nobody.
        check_access: Raises SftError if it would not take the training; asks whoever starts the ranks.
        train: Trains.
        volume: Returns ``claim:/mount/path`` of the volume that the run root lies on, as far as the launcher knows.
    """

    check_settings: Callable[[RunConfig], None]
    check_access: Callable[[TrainingConfig, str, Progress], None]
    train: TrainFunction
    volume: Callable[[LauncherConfig], str | None]


def launcher_of(cfg: LauncherConfig) -> Launcher:
    """Return the launcher that a configuration names."""
    match cfg.kind:
        case LauncherKind.torchrun:
            return Launcher(
                check_settings=lambda _: None,
                check_access=lambda *_: None,
                train=_train_here,
                volume=lambda _: None,
            )
        case LauncherKind.kubeflow:
            return Launcher(
                check_settings=trainjob.check_volume,
                check_access=trainjob.check_cluster,
                train=trainjob.train_in_pods,
                volume=lambda launcher: f"{launcher.pvc}:{launcher.mount_path}",
            )


def _train_here(
    cfg: TrainingConfig,
    task: TrainingTask,
    resources: Resources,
    display: JobDisplay,
    *,
    detach: bool,  # noqa: ARG001 - refused before: nobody would be left to watch the ranks
) -> None:
    torchrun.launch(
        task.main,
        task.options,
        LaunchSettings(
            num_processes=resources.num_processes,
            nodes=resources.nodes,
            env=dict(cfg.env),
            stall_timeout_seconds=cfg.stall_timeout_seconds,
            gpus=machine.gpu_ids()[: resources.num_processes] if resources.num_gpus else (),
        ),
        logs=task.logs,
        watch=display.watch,
        say=display.say,
    )
