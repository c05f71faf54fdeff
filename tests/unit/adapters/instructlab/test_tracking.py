"""Trackers: one number per step over a resume, and a tracker that fails costs the training nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.tracking import Trackers

pytestmark = [
    # Warned while torch's writer and tensorboard are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def trackers(folder: Path, *names: str, step: int = 0) -> Trackers:
    return Trackers(
        names, folder=folder, work=folder, project="p", run_name="r", settings={"rate": 1.0, "model": None}, step=step
    )


def row(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "epoch": 0, "loss": 1 / step, **values}


def test_steps_after_the_state_that_a_run_goes_on_from_are_written_anew(tmp_path: Path) -> None:
    with trackers(tmp_path, "tensorboard") as first:
        for step in (1, 2, 3):
            assert first.log(row(step)) == {}
    with trackers(tmp_path, "tensorboard", step=2) as second:
        second.log(row(3, loss=9.0))

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5), (3, 9.0)]


def test_a_tracker_that_fails_is_named_and_left_out_from_then_on(tmp_path: Path) -> None:
    with trackers(tmp_path, "tensorboard") as working:

        def away(_values: dict[str, float], _step: int) -> None:
            raise ConnectionError("away")

        working._logs["mlflow"] = away
        assert working.log(row(1)) == {"mlflow": "ConnectionError: away"}
        assert working.log(row(2)) == {}


@pytest.mark.long
def test_mlflow_without_an_address_writes_into_the_run_root_and_nothing_into_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    here, root = tmp_path / "here", tmp_path / "runs"
    here.mkdir()
    monkeypatch.chdir(here)
    settings = {"project": "p", "run_name": "r", "settings": {"rate": 1.0}, "step": 0}
    with Trackers(("mlflow",), folder=tmp_path, work=tmp_path, root=root, **settings) as tracker:
        tracker.log(row(1))
    assert list(here.iterdir()) == []
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("p")
    assert experiment.artifact_location == (root / "mlflow-artifacts" / "p").as_uri()
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["loss"] == 1.0
