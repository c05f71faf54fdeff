"""Sweeps that train, by every engine, as a person runs them: several points at once, killed, failed, gone on with."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft import self_hashed_json
from tests.support.command import Answer, sft, start

pytestmark = [pytest.mark.slow, pytest.mark.long]
SMALL = [
    "dataset.max_samples=200", "eval.tasks=[]", "eval.holdout.limit=20", "eval.holdout.generate=false", "registry=none",
    "training.tracking.trackers=[]",
]  # fmt: skip
EPOCH = ["training.num_epochs=1"]
LONG = ["training.num_epochs=400", "training.full_state_at_epoch=false", "eval=none"]


def points(root: Path, name: str = "*") -> list[dict[str, Any]]:
    files = sorted(root.glob(f"runs/sweeps/{name}/points/*.json"))
    return [self_hashed_json.load_checked(path.read_bytes()) for path in files]


def statuses(root: Path, name: str = "*") -> list[str]:
    return [point["status"] for point in points(root, name)]


def wait_for(condition: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def at_work(root: Path) -> list[str]:
    """Processes of a sweep's points and of their trainings: those that work in the folder, or on a file in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            if "python" in command and ((process / "cwd").readlink() == root or str(root) in command):
                found.append(command.replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def trainings(root: Path) -> set[Path]:
    """Trainings that have made a step."""
    return {path.parent for path in root.glob("runs/store/.staging/train-*/logs/metrics.jsonl") if path.stat().st_size}


@pytest.fixture(scope="module")
def joblib(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """Two points at once, killed with both at work, and gone on with by the same command."""
    cwd = tmp_path_factory.mktemp("engines")
    command = ["run", "quickstart_joblib", *SMALL, *EPOCH]
    sweep = start(*command, cwd=cwd)
    wait_for(lambda: len(list(cwd.glob("runs/store/.staging/train-*/logs/settings.json"))) == 2)
    sweep.kill()
    sweep.communicate()
    wait_for(lambda: not at_work(cwd), 15)
    return cwd, sft(*command, cwd=cwd)


def test_points_at_once_share_what_they_share_and_are_compared(joblib: tuple[Path, Answer]) -> None:
    cwd, answer = joblib
    assert answer.status == 0, answer.err
    assert statuses(cwd, "quickstart_joblib-*") == ["done", "done"]
    assert len(list(cwd.glob("runs/quickstart_joblib-*/run.html"))) == 2
    first, second = points(cwd, "quickstart_joblib-*")
    assert max(first["started_at"], second["started_at"]) < min(first["ended_at"], second["ended_at"])
    assert "1| = dataset: done before" in answer.out
    assert answer.out.count("✓ evaluate:base") <= 1
    found = json.loads(sft("compare", *map(str, cwd.glob("runs/sweeps/quickstart_joblib-*")), "--json", cwd=cwd).out)
    best, other = found["rows"]
    assert best["is_best"]
    assert best["values"] == {"training.learning_rate": "0.005"}
    assert best["objective"] == best["scores"]["holdout.loss"]["value"] < other["objective"]
    assert best["scores"]["holdout.loss"]["base"] > best["objective"]
    assert min(best["tokens_per_second"], best["memory_bytes"], best["seconds"]) > 0


def test_the_same_point_alone_finds_everything_done(joblib: tuple[Path, Answer]) -> None:
    one = ["training.learning_rate=1e-3", "hydra.mode=RUN", "hydra/launcher=basic"]
    answer = sft("run", "quickstart_joblib", *SMALL, *EPOCH, *one, cwd=joblib[0])
    assert answer.status == 0, answer.err
    assert answer.out.startswith("nothing to do")


def test_jobs_of_submitit_tell_through_files_and_leave_no_pickles(joblib: tuple[Path, Answer]) -> None:
    cwd = joblib[0]
    answer = sft("run", "quickstart_submitit", *SMALL, *EPOCH, "sweep.objective=train.loss", cwd=cwd)
    assert answer.status == 0, answer.err
    assert "what each says lies in " in answer.out
    assert statuses(cwd, "quickstart_submitit-*") == ["done", "done"]
    assert all(point["objective"] > 0 for point in points(cwd, "quickstart_submitit-*"))
    left = {path.suffix for path in cwd.glob("runs/sweeps/quickstart_submitit-*/submitit/**/*") if path.is_file()}
    assert left == {".out", ".err"}


@pytest.mark.exhaustive
def test_optuna_gets_the_objective_and_the_same_command_does_nothing_twice(joblib: tuple[Path, Answer]) -> None:
    cwd = joblib[0]
    command = ["run", "quickstart_optuna", *SMALL, "hydra.sweeper.n_trials=2", "sweep.objective=train.loss"]
    answer = sft(*command, cwd=cwd)
    assert answer.status == 0, answer.err
    first = points(cwd, "quickstart_optuna-*")
    assert [point["status"] for point in first] == ["done", "done"]
    assert {"training.learning_rate", "training.schedule.warmup_ratio"} < first[0]["values"].keys()
    assert first[0]["objective"] != first[1]["objective"]
    again = sft(*command, cwd=cwd)
    assert again.status == 0, again.err
    assert "✓" not in again.out
    assert [p["values"] for p in points(cwd, "quickstart_optuna-*")] == [p["values"] for p in first]
    wrong = sft(*command[:-1], "sweep.objective=holdout.loss", "hydra.sweeper.direction=maximize", cwd=cwd)
    assert wrong.status == 2
    assert "maximize: sweep.objective=holdout.loss is better when it is lower; hydra.sweeper.direction=m" in wrong.err
    assert "Traceback" not in wrong.err


@pytest.mark.exhaustive
def test_a_point_that_fails_is_reported_and_the_same_command_runs_only_it(joblib: tuple[Path, Answer]) -> None:
    cwd = joblib[0]
    rates = "training.learning_rate=1000,1e-9"  # times the decay: weights grow a millionfold each step, or keep
    command = [
        "run",
        "quickstart",
        "-m",
        rates,
        "training.weight_decay=1000",
        *SMALL,
        *EPOCH,
        "training.launcher.procs_per_worker=1",
        "training.effective_batch_size=8",
    ]
    for _ in range(2):
        answer = sft(*command, cwd=cwd)
        assert answer.status == 1
        assert "the loss is nan at step" in answer.err
        assert "try: lower training.learning_rate" in answer.err
        assert statuses(cwd, "quickstart-*") == ["failed", "done"]
        assert answer.out.splitlines()[-1] == "failed: 1: training.learning_rate=1000"
    assert "= train: done before" not in answer.out  # nothing at all is done of the other point
    page = next(cwd.glob("runs/sweeps/quickstart-*/report.html")).read_text()
    assert "the loss is nan" in page


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_begins_no_other_point(number: signal.Signals, tmp_path: Path) -> None:
    sweep = start("run", "quickstart", "-m", "training.seed=1,2", *SMALL, *LONG, cwd=tmp_path)
    wait_for(lambda: trainings(tmp_path))
    sweep.send_signal(number)
    out, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == (130 if number is signal.SIGINT else 75), out
    assert "the same command continues" in out
    assert statuses(tmp_path) == ["interrupted", "pending"]
    assert not at_work(tmp_path)


@pytest.mark.exhaustive
def test_a_killed_sweep_loses_only_the_point_at_work_and_that_one_resumes(tmp_path: Path) -> None:
    whole = ["dataset.max_samples=2000", "training.num_epochs=6", "training.effective_batch_size=32"]
    command = ["run", "quickstart", "-m", "training.seed=1,2", *whole, "eval=none", "registry=none"]
    sweep = start(*command, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/store/train/*")))
    wait_for(lambda: list(tmp_path.rglob("full_state/step_*")))
    sweep.kill()
    sweep.communicate()
    wait_for(lambda: not at_work(tmp_path), 15)
    assert statuses(tmp_path) == ["done", "running"]
    [swept] = tmp_path.glob("runs/sweeps/*")
    rows = json.loads(sft("compare", str(swept), "--json", cwd=tmp_path).out)["rows"]
    assert [row["status"] for row in rows] == ["done", "interrupted"]
    answer = sft(*command, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert answer.out.count("resumes after step") == answer.out.count("✓ train") == 1
    assert "resumes after step" in answer.out.partition("[2/2")[2]
    assert statuses(tmp_path) == ["done", "done"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_a_sweep(launcher: str, number: signal.Signals, tmp_path: Path) -> None:
    recipe = "quickstart_joblib" if launcher == "joblib" else "quickstart_submitit"
    sweep = start("run", recipe, *SMALL, *LONG, cwd=tmp_path)
    wait_for(lambda: len(trainings(tmp_path)) == 2)
    sweep.send_signal(number)
    sweep.communicate(timeout=60)
    wait_for(lambda: not at_work(tmp_path), 20)
    assert sweep.returncode == (130 if number is signal.SIGINT else -signal.SIGKILL)


def test_the_page_of_a_sweep_shows_its_runs(joblib: tuple[Path, Answer]) -> None:
    [page] = joblib[0].glob("runs/sweeps/quickstart_joblib-*/report.html")
    assert page.read_text().count('<g class="p') >= 4
    assert "://" not in page.read_text()  # nothing comes from elsewhere
