"""Owns logging the training curve to TensorBoard, MLflow and W&B. Used by the main rank only.

Upstream logs its own step, which restarts at 1 after a resume (trap 8). Here a step has one number over the whole run,
and a resumed run logs to the same run of the tracker.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sft.adapters.registry.mlflow_database import ARTIFACTS, DATABASE, locked
from sft.files import write_json

log = logging.getLogger(__name__)

_IDS = "tracking.json"
_NOT_CURVES = {"step", "epoch"}


class Trackers:
    """All trackers of a recipe.

    Args:
        names: ``tensorboard``, ``mlflow``, ``wandb``.
        folder: Folder in which ``tensorboard`` holds TensorBoard's files, and ``wandb`` W&B's unless WANDB_DIR is set.
        root: Folder of MLflow's database where MLFLOW_TRACKING_URI names no other: nothing is written elsewhere.
        work: Folder that outlives a stopped run; holds the ids of the trackers' runs.
        project: MLflow's experiment, W&B's project.
        run_name: Name of the run in MLflow and W&B.
        settings: Hyperparameters, shown beside the curves.
        step: The step after which the run resumes; 0 at its start.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        folder: Path,
        work: Path,
        project: str,
        run_name: str,
        settings: Mapping[str, Any],
        step: int,
        root: Path | None = None,
    ) -> None:
        self._folder, self._root = folder, root or folder
        self._ids_file = work / _IDS
        self._ids: dict[str, str] = json.loads(self._ids_file.read_text()) if step and self._ids_file.exists() else {}
        self._project, self._run_name = project, run_name
        self._settings = {key: value for key, value in settings.items() if isinstance(value, str | int | float | bool)}
        self._closing = ExitStack()
        starts: dict[str, Callable[[], Callable[[dict[str, float], int], None]]] = {
            "tensorboard": lambda: self._tensorboard(folder / "tensorboard", step),
            "mlflow": self._mlflow,
            "wandb": self._wandb,
        }
        self._logs = {name: starts[name]() for name in names}
        if self._ids:
            write_json(self._ids_file, self._ids)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closing.close()

    def log(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Log the numbers of a row of ``metrics.jsonl``.

        Returns:
            The trackers that failed, each with its error. They get no more rows: a server that can't be reached must
            not end the training, and ``metrics.jsonl`` has everything.
        """
        values = {key: float(value) for key, value in row.items() if key not in _NOT_CURVES and math.isfinite(value)}
        lost = {}
        for name, send in list(self._logs.items()):
            try:
                send(values, row["step"])
            except Exception as error:
                log.exception("%s failed", name)
                lost[name] = f"{type(error).__name__}: {error}"
                del self._logs[name]
        return lost

    def _tensorboard(self, folder: Path, step: int) -> Callable[[dict[str, float], int], None]:
        from torch.utils.tensorboard import SummaryWriter

        writer = self._closing.enter_context(SummaryWriter(str(folder), purge_step=step + 1 if step else None))

        def send(values: dict[str, float], step: int) -> None:
            for key, value in values.items():
                writer.add_scalar(f"train/{key}", value, step)

        return send

    def _mlflow(self) -> Callable[[dict[str, float], int], None]:
        # A server could ask for a pause of 6 hours (urllib3/util/retry.py:197@2.7.0), in which nothing is trained.
        os.environ["MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER"] = "false"
        import mlflow

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            self._use_database(mlflow.MlflowClient)
        mlflow.set_experiment(self._project)
        run = self._closing.enter_context(mlflow.start_run(run_id=self._ids.get("mlflow"), run_name=self._run_name))
        if "mlflow" not in self._ids:
            mlflow.log_params(self._settings)
        self._ids["mlflow"] = run.info.run_id
        return lambda values, step: mlflow.log_metrics(values, step=step)

    def _use_database(self, client_of: Callable[..., Any]) -> None:
        """Use the database that the embedded registry has, too; MLflow's own default is in the working folder."""
        database = self._root.absolute() / DATABASE
        os.environ["MLFLOW_TRACKING_URI"] = address = f"sqlite:///{database}"
        with locked(database):
            client = client_of(address, address)
            if client.get_experiment_by_name(self._project) is None:
                place = database.with_name(ARTIFACTS) / self._project.replace("/", "_")
                client.create_experiment(self._project, artifact_location=place.as_uri())

    def _wandb(self) -> Callable[[dict[str, float], int], None]:
        import wandb

        run = self._closing.enter_context(
            wandb.init(
                project=self._project,
                name=self._run_name,
                id=self._ids.get("wandb"),
                resume="allow",
                config=self._settings,
                dir=os.environ.get("WANDB_DIR") or str(self._folder),
            )
        )
        self._ids["wandb"] = run.id
        return lambda values, step: run.log(values, step=step)
