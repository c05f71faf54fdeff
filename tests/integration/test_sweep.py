"""A sweep on the real command line, as far as it goes without training: what is left out, told and compared."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import filelock
import pytest

from sft import self_hashed_json
from tests.support.command import Answer, records, sft, sft_in_process, start

UNTIL = ["--until", "dataset"]
ROWS = ["dataset.uri=synthetic://spell-numbers?rows=20"]


def points(root: Path) -> list[dict[str, Any]]:
    files = sorted(root.glob("runs/sweeps/*/points/*.json"))
    return [self_hashed_json.load_checked(path.read_bytes()) for path in files]


def statuses(root: Path) -> list[str]:
    return [point["status"] for point in points(root)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """Two seeds of a dataset."""
    cwd = tmp_path_factory.mktemp("sweep")
    return cwd, sft("run", "quickstart", "-m", "dataset.seed=1,2", *ROWS, *UNTIL, cwd=cwd)


def test_a_sweep_tells_of_its_points_and_ends_with_a_table_and_a_page(done: tuple[Path, Answer]) -> None:
    cwd, answer = done
    assert answer.status == 0, answer.err
    assert "sweep of 2 points\n" in answer.out
    assert "[2/2: dataset.seed=2]" in answer.out
    assert len(records(cwd / "runs")) == 2
    assert statuses(cwd) == ["done", "done"]
    assert len(list(cwd.glob("runs/quickstart-*/run.html"))) == 2
    [page] = cwd.glob("runs/sweeps/*/report.html")
    assert answer.out.splitlines()[-1] == f"page  {page.relative_to(cwd)}"


def test_nothing_of_hydras_own_is_left(done: tuple[Path, Answer]) -> None:
    left = {path.name for path in done[0].glob("runs/sweeps/*/*")}
    assert left == {"sweep.json", "points", "report.html", ".lock"}
    assert [path.name for path in done[0].iterdir()] == ["runs"]


def test_the_same_sweep_again_finds_its_points_done(done: tuple[Path, Answer]) -> None:
    again = sft_in_process("run", "quickstart", "-m", "dataset.seed=1,2", *ROWS, *UNTIL, cwd=done[0])
    assert again.status == 0
    assert "✓" not in again.out
    assert len(list(done[0].glob("runs/sweeps/*"))) == 1
    alone = sft_in_process("run", "quickstart", "dataset.seed=2", *ROWS, *UNTIL, cwd=done[0])
    assert alone.out.startswith("nothing to do")


def test_runs_compare_as_a_sweep_as_a_root_and_one_by_one(done: tuple[Path, Answer]) -> None:
    cwd = done[0]
    [sweep] = cwd.glob("runs/sweeps/*")
    rows = list(csv.DictReader(io.StringIO(sft_in_process("compare", str(sweep), "--csv", cwd=cwd).out)))
    assert [(row["number"], row["dataset.seed"], row["status"]) for row in rows] == [
        ("1", "1", "done"),
        ("2", "2", "done"),
    ]
    runs = [str(path) for path in sorted(cwd.glob("runs/quickstart-*"))]
    found = json.loads(sft_in_process("compare", *runs, "--json", "--html", "mine.html", cwd=cwd).out)
    assert found["keys"] == ["dataset.seed"]
    assert {Path(row["folder"]).name for row in found["rows"]} == {Path(run).name for run in runs}
    assert "<svg" in (cwd / "mine.html").read_text() or "<table" in (cwd / "mine.html").read_text()
    (cwd / "mine.html").unlink()


def test_what_can_not_be_compared_is_said(done: tuple[Path, Answer], tmp_path: Path) -> None:
    nothing = sft_in_process("compare", ".", cwd=tmp_path)
    assert (nothing.status, nothing.out) == (1, "")
    assert nothing.err.startswith("error: .: no run.json, no sweep.json and no runs there\n  try: a run's folder")
    [sweep] = done[0].glob("runs/sweeps/*")
    unknown = sft_in_process("compare", str(sweep), "--by", "arc.acc", cwd=done[0])
    assert unknown.status == 2
    assert "--by=arc.acc: no run has this score; there are train.loss" in unknown.err


def test_points_that_can_not_fit_are_not_run_and_say_why(tmp_path: Path) -> None:
    tokens = "training.max_tokens_per_gpu=1000000000,2000000000"
    answer = sft_in_process("run", "quickstart", "-m", tokens, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert "sweep of 2 points, 0 to run; sweep.skip_infeasible=false runs all of them" in answer.out
    assert statuses(tmp_path) == ["skipped", "skipped"]
    assert all("GiB per rank by the estimate, there are" in point["reason"] for point in points(tmp_path))
    assert records(tmp_path / "runs") == []


@pytest.mark.long
def test_points_that_would_do_the_same_are_one(tmp_path: Path) -> None:
    answer = sft_in_process("run", "quickstart_fsdp_sweep", *ROWS, *UNTIL, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert "sweep of 4 points, 1 to run" in answer.out
    assert "- 3: training.fsdp.sharding_strategy=HYBRID_SHARD: the same work as point 1 (training.fsdp" in answer.out
    assert statuses(tmp_path) == ["done", "same", "same", "same"]
    assert len(records(tmp_path / "runs")) == 1


@pytest.mark.long
def test_all_of_them_run_where_that_is_asked_for(tmp_path: Path) -> None:
    asked = ["training.launcher.procs_per_worker=1", "sweep.skip_infeasible=false"]
    answer = sft_in_process("run", "quickstart_fsdp_sweep", *asked, *ROWS, *UNTIL, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert statuses(tmp_path) == ["done"] * 4
    assert answer.out.count("✓ dataset") == 1  # the store knows that it is the same work


@pytest.mark.long
def test_every_point_is_tried_and_the_same_command_runs_what_is_missing(tmp_path: Path) -> None:
    command = ["run", "quickstart", "dataset=local", "-m", "dataset.uri=late.jsonl,there.jsonl", *UNTIL]
    rows = "".join(
        json.dumps({"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "b"}]}) + "\n"
        for n in range(20)
    )
    (tmp_path / "there.jsonl").write_text(rows)
    first = sft_in_process(*command, cwd=tmp_path)
    assert first.status == 1
    assert first.err.startswith("error: dataset.uri=late.jsonl: No such file")
    assert statuses(tmp_path) == ["failed", "done"]
    assert "1: failed: dataset.uri=late.jsonl: No such file" in first.out
    assert first.out.splitlines()[-1] == "failed: 1: dataset.uri=late.jsonl"
    (tmp_path / "late.jsonl").write_text(rows)
    second = sft_in_process(*command, cwd=tmp_path)
    assert second.status == 0, second.err
    assert second.out.count("✓ dataset") == 1
    assert statuses(tmp_path) == ["done", "done"]


def test_a_recipe_that_is_a_sweep_can_be_run_once(tmp_path: Path) -> None:
    answer = sft_in_process("run", "quickstart_fsdp_sweep", "hydra.mode=RUN", *ROWS, *UNTIL, cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert "sweep of" not in answer.out
    assert len(records(tmp_path / "runs")) == 1


@pytest.mark.long
def test_a_secret_of_the_environment_is_in_nothing_that_a_sweep_leaves(tmp_path: Path) -> None:
    uri = "dataset.uri=canary-1234.jsonl,canary-12345.jsonl"
    launcher = "hydra/launcher=submitit_local"
    environment = {"HF_TOKEN": "canary-1234"}
    # A process: whatever it or a job of it prints, by whatever way, comes back.
    answer = sft("run", "quickstart", "dataset=local", "-m", uri, launcher, *UNTIL, cwd=tmp_path, **environment)
    assert answer.status == 1
    said = answer.out + answer.err
    said += "".join(f.read_bytes().decode(errors="replace") for f in (tmp_path / "runs").rglob("*") if f.is_file())
    assert "canary" not in said
    assert "***.jsonl: No such file" in said


def test_a_page_that_can_not_be_written_is_said(done: tuple[Path, Answer]) -> None:
    [sweep] = done[0].glob("runs/sweeps/*")
    into_nowhere = sft_in_process("compare", str(sweep), "--html", "no/such/folder/x.html", cwd=done[0])
    assert into_nowhere.status == 1
    assert into_nowhere.err.startswith("error: --html no/such/folder/x.html: No such file or directory")


def test_the_same_sweep_in_two_processes_is_done_by_one_after_the_other(done: tuple[Path, Answer]) -> None:
    cwd = done[0]
    [sweep] = cwd.glob("runs/sweeps/*")
    with filelock.FileLock(sweep / ".lock"):
        second = start("run", "quickstart", "-m", "dataset.seed=1,2", *ROWS, *UNTIL, cwd=cwd)
        assert second.stdout is not None
        said = next(line for line in second.stdout if "at work in another process; waiting for it" in line)
        assert sweep.name in said
        assert statuses(cwd) == ["done", "done"]  # the other's points are not touched
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 0, out


def test_an_error_that_ends_a_sweep_before_its_first_point_is_the_one_that_is_told(tmp_path: Path) -> None:
    asked = ["-m", "dataset.seed=1,2", "hydra/launcher=submitit_slurm"]
    answer = sft("run", "quickstart", *asked, *ROWS, *UNTIL, cwd=tmp_path, PATH=str(tmp_path))  # no Slurm there
    assert answer.status == 1
    assert answer.err.startswith("error: hydra/launcher=submitit_slurm: ")
    assert "srun" in answer.err


def test_a_point_that_is_refused_when_its_turn_comes_says_why_in_the_table(tmp_path: Path) -> None:
    answer = sft_in_process(
        "run", "quickstart", "-m", "dataset.seed=1,2", "eval.include_path=nowhere", *ROWS, *UNTIL, cwd=tmp_path
    )
    assert answer.status == 1
    assert "\n1: failed: eval.include_path=nowhere: is not a folder" in answer.out
