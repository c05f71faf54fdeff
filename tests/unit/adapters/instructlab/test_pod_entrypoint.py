"""A node in a pod before it trains: what it refuses, with which status, and what it leaves for who asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sft.adapters.instructlab import pod_entrypoint
from sft.adapters.instructlab.monitor import TrainingProgress
from sft.adapters.instructlab.pod_entrypoint import NodeExit, NodeReport

PET = {
    "PET_NNODES": "1",
    "PET_NPROC_PER_NODE": "1",
    "PET_NODE_RANK": "0",
    "PET_MASTER_ADDR": "127.0.0.1",
    "PET_MASTER_PORT": "29500",
}


def begun(logs: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sft.adapters.instructlab.pod_entrypoint", str(logs)]
    env = {**os.environ, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


def settings(logs: Path, **versions: str) -> None:
    """A settings file of which only the versions count here."""
    logs.mkdir(exist_ok=True)
    content = {"main": {}, "options": {}, "env": {}, "versions": {**pod_entrypoint._versions(), **versions}}
    (logs / "settings.json").write_text(json.dumps(content))


def test_a_pod_that_does_not_see_the_volume_says_so(tmp_path: Path) -> None:
    answer = begun(tmp_path / "logs", **PET)
    assert answer.returncode == NodeExit.failed.value
    assert "the pod does not see the run's folder" in answer.stdout
    assert "training.launcher.pvc" in answer.stdout
    assert "Traceback" not in answer.stdout + answer.stderr


def test_an_image_with_other_versions_than_the_record_names_is_refused(tmp_path: Path) -> None:
    settings(tmp_path, torch="1.0.0")
    answer = begun(tmp_path, **PET)
    assert answer.returncode == NodeExit.failed.value
    assert "not 1.0.0, which the run's record names" in answer.stdout
    [end] = pod_entrypoint.node_reports(tmp_path)
    assert end.exit is NodeExit.failed
    assert "training.launcher.image" in str(end.fix)


def test_another_build_of_the_same_torch_is_the_same(tmp_path: Path) -> None:
    assert "+" not in pod_entrypoint._versions()["torch"]


def test_a_runtime_that_is_not_torchs_is_named(tmp_path: Path) -> None:
    settings(tmp_path)
    answer = begun(tmp_path, **{**PET, "PET_NNODES": ""})
    assert answer.returncode == NodeExit.failed.value
    assert "the runtime does not set PET_NNODES" in answer.stdout


def test_a_node_that_begins_again_after_an_error_of_its_own_ends_with_the_same_words(tmp_path: Path) -> None:
    settings(tmp_path)
    (tmp_path / "ended").mkdir()
    note = {"node": 1, "exit": "failed", "message": "the loss is nan at step 3", "fix": "a lower rate", "time": 1.0}
    (tmp_path / "ended" / "node_1.json").write_text(json.dumps(note))
    answer = begun(tmp_path, **PET)
    assert answer.returncode == NodeExit.failed.value
    assert "the loss is nan at step 3\n  try: a lower rate" in answer.stdout


def test_a_training_that_is_done_is_not_begun_again(tmp_path: Path) -> None:
    settings(tmp_path)
    (tmp_path / "finished.json").write_text("{}")
    answer = begun(tmp_path, **PET)
    assert (answer.returncode, answer.stdout) == (0, "the training is done\n")


def test_what_an_earlier_job_noted_is_forgotten_before_another_begins(tmp_path: Path) -> None:
    for folder in ("ended", "gather"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "node_1.json").write_text("{}")
    (tmp_path / "stop").touch()
    (tmp_path / "metrics.jsonl").touch()
    pod_entrypoint.clear_notes(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["errors", "metrics.jsonl", "stacks"]


def test_the_first_end_comes_first(tmp_path: Path) -> None:
    (tmp_path / "ended").mkdir()
    for node, time in ((0, 2.0), (1, 1.0)):
        note = {"node": node, "exit": "lost", "message": f"m{node}", "fix": None, "time": time}
        (tmp_path / "ended" / f"node_{node}.json").write_text(json.dumps(note))
    assert pod_entrypoint.node_reports(tmp_path) == [
        NodeReport(1, NodeExit.lost, "m1", None),
        NodeReport(0, NodeExit.lost, "m0", None),
    ]


def test_the_first_node_tells_its_first_and_its_last_step_and_the_others_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBEFLOW_TRAINER_SERVER_URL", raising=False)
    for is_first in (True, False):
        printer = pod_entrypoint._StepPrinter(is_first=is_first)
        for step in (1, 2, 3):
            printer.watch(TrainingProgress({"step": step, "loss": 0.5}, num_steps=3, num_epochs=1, seconds_left=0.0))
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["step 1/3", "step 3/3"]
