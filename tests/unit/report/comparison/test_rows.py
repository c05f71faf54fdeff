"""What is read of runs: what varied, what came of it, what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import filelock
import pytest

from sft import record
from sft.config.compose import compose, find_recipe
from sft.errors import ConfigError, DataError
from sft.record import RunRecord, StepRecord
from sft.report.comparison.rows import compare
from sft.sweep import records as kept
from sft.sweep.records import SweepRecord

RATES = {"training.learning_rate": "0.1,0.2"}


def scored(loss: float, accuracy: float) -> dict[str, Any]:
    common = {"stderr": 0.1, "num_samples": 9}
    return {
        "scores": [
            {"task": "holdout", "metric": "loss", "value": loss, "higher_is_better": False, **common},
            {"task": "t", "metric": "acc", "value": accuracy, "higher_is_better": True, **common},
        ]
    }


def run(root: Path, name: str, loss: float = 1.0, accuracy: float = 0.5, status: str = "done", **config: Any) -> Path:
    """A run's folder with a record, and its training's metrics in the store."""
    steps = [
        StepRecord(name="evaluate:base", status="done", output="b", seconds=9.0, facts=scored(4.0, 0.1)),
        StepRecord(name="train", status="done", key=name, output="t", seconds=20.0, facts={"final_loss": loss / 2}),
        StepRecord(name="evaluate:tuned", status="done", output="e", seconds=10.0, facts=scored(loss, accuracy)),
    ]
    if status != "done":
        steps = [StepRecord(name="train", status="failed", error="the loss is nan\n  more")]
    made = RunRecord(
        run_id=name, status=status, recipe="r.yaml", command=[], cwd="/", config={"name": "r", **config},  # type: ignore[arg-type]
        git_commit=None, versions={}, machine={}, steps=steps, started_at=f"2026-01-01T00:00:0{name[-1]}Z",
    )  # fmt: skip
    (root / name).mkdir(parents=True)
    made.save(root / name)
    logs = root / "store" / "train" / name / "logs"
    logs.mkdir(parents=True)
    rows = [
        {"step": n, "loss": loss + 9 / n, "seconds": 2.0, "num_tokens": 100, "memory_bytes": n} for n in range(1, 6)
    ]
    (logs / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root / name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three runs, the second of which is the best and the third of which failed."""
    run(tmp_path, "r-1", loss=1.0, accuracy=0.9, training={"seed": 1, "fsdp": {"x": "a"}})
    run(tmp_path, "r-2", loss=0.5, accuracy=0.8, training={"seed": 2, "fsdp": {"x": "a"}})
    run(tmp_path, "r-3", status="failed", training={"seed": 3, "fsdp": {"x": "b"}})
    return tmp_path


def test_of_any_runs_it_is_found_what_varies_and_the_best_comes_first(root: Path) -> None:
    found = compare([root])
    assert (found.objective, found.keys) == ("holdout.loss", ["training.seed", "training.fsdp.x"])
    assert [row.run for row in found.rows] == ["r-2", "r-1", "r-3"]
    assert [row.is_best for row in found.rows] == [True, False, False]
    assert found.rows[0].values == {"training.seed": "2", "training.fsdp.x": "a"}


def test_a_row_has_scores_with_the_base_models_speed_memory_and_its_own_time(root: Path) -> None:
    row = compare([root]).rows[0]
    assert (row.objective, row.train_loss, row.seconds) == (0.5, 0.25, 30.0)
    assert (row.tokens_per_second, row.memory_bytes) == (50.0, 5)
    assert row.scores["holdout.loss"].change == -3.5
    assert row.curve[-1] == (5, 0.5 + 9 / 5)


def test_another_score_can_order_them(root: Path) -> None:
    found = compare([root], "t.acc")
    assert found.higher_is_better
    assert [row.run for row in found.rows] == ["r-1", "r-2", "r-3"]
    with pytest.raises(ConfigError, match=r"no run has this score; there are holdout.loss, t.acc, train.loss"):
        compare([root], "u.acc")


def test_a_failed_run_says_why(root: Path) -> None:
    failed = compare([root]).rows[-1]
    assert (failed.status, failed.objective) == ("failed", None)
    assert failed.reason == "train: the loss is nan\n  more"


def test_metrics_that_were_pruned_are_missed_and_nothing_else(root: Path) -> None:
    (root / "store" / "train" / "r-2" / "logs" / "metrics.jsonl").unlink()
    row = compare([root]).rows[0]
    assert (row.run, row.tokens_per_second, row.curve, row.objective) == ("r-2", None, [], 0.5)


def test_a_run_that_was_killed_is_interrupted_and_one_at_work_is_running(root: Path) -> None:
    folder = root / "r-1"
    made = record.load(folder)
    assert made is not None
    made.status = "running"
    made.save(folder)
    assert {row.run: row.status for row in compare([root]).rows}["r-1"] == "interrupted"
    with filelock.FileLock(folder / ".lock"):
        assert {row.run: row.status for row in compare([root]).rows}["r-1"] == "running"


def test_the_same_run_twice_is_one_row(root: Path) -> None:
    assert len(compare([root / "r-1", root / "r-1", root / "r-2"]).rows) == 2


def test_a_run_that_a_sweep_has_a_point_for_is_one_row(tmp_path: Path) -> None:
    swept = sweep(tmp_path, "done", "done")
    runs = sorted(path.parent for path in tmp_path.glob("*/run.json"))
    for named in ([swept, tmp_path], [tmp_path, swept], [*runs, swept, runs[0] / ".." / runs[0].name]):
        assert sorted(row.run for row in compare(named).rows) == [run.name for run in runs]


def test_a_record_of_a_root_that_can_not_be_read_is_named(root: Path) -> None:
    torn = root / "r-1" / "run.json"
    torn.write_bytes(torn.read_bytes()[:100])
    found = compare([root])
    assert [row.run for row in found.rows] == ["r-2", "r-3"]
    assert found.unreadable == [str(torn)]
    for run_of in (root / "r-2", root / "r-3"):
        (run_of / "run.json").write_text("{}")
    with pytest.raises(DataError, match=r"r-1/run.json: can't be read; .*r-3/run.json: can't be read"):
        compare([root])


def test_a_training_that_was_resumed_took_the_time_of_all_its_steps(root: Path) -> None:
    made = record.load(root / "r-2")
    assert made is not None
    made.step("train").seconds = 3.0  # of its last try; there are five steps of 2 seconds
    made.save(root / "r-2")
    row = compare([root]).rows[0]
    assert (row.run, row.train_seconds, row.seconds) == ("r-2", 10.0, 20.0)


def test_runs_that_trained_nothing_are_not_taken_of_a_root(root: Path) -> None:
    made = record.load(root / "r-1")
    assert made is not None
    made.steps = [step for step in made.steps if step.name != "train"]
    made.save(root / "r-1")
    assert [row.run for row in compare([root]).rows] == ["r-2", "r-3"]


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run.json, no sweep.json and no runs there"):
        compare([tmp_path])


def test_a_folder_without_runs_is_skipped_and_named_beside_those_that_have_some(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    found = compare([tmp_path / "empty", root / "r-1", tmp_path / "file"])
    assert [row.run for row in found.rows] == ["r-1"]
    assert found.skipped == [str(tmp_path / "empty"), str(tmp_path / "file")]


def sweep(root: Path, *statuses: str) -> Path:
    """A sweep's folder with a point per status; the points that are done have a run."""
    folder = root / "sweeps" / "s-1"
    SweepRecord(
        name="s", status="done", recipe="r.yaml", command=["sft"], cwd="/", sweeper="basic", launcher="basic",
        varied=RATES, objective="t.acc", higher_is_better=True, started_at=kept.now(),
    ).save(folder)  # fmt: skip
    for number, status in enumerate(statuses, 1):
        cfg = compose(find_recipe("quickstart"), [f"training.learning_rate={number / 10}"])
        point = kept.point(number, {"training.learning_rate": str(number / 10)}, cfg)
        point.status = status  # type: ignore[assignment]
        if status == "done":
            run(root, f"{point.run}", accuracy=number / 10)
        else:
            point.reason = "because"
        point.save(folder)
    return folder


def test_a_sweep_has_a_row_for_each_point_in_its_own_words_by_its_own_score(tmp_path: Path) -> None:
    found = compare([sweep(tmp_path, "done", "skipped", "done", "same", "failed", "pending")])
    assert (found.title, found.objective, found.keys) == ("s", "t.acc", ["training.learning_rate"])
    assert [(row.number, row.status) for row in found.rows] == [
        (3, "done"), (1, "done"), (2, "skipped"), (4, "same"), (5, "failed"), (6, "pending"),
    ]  # fmt: skip
    assert found.rows[2].reason == "because"
    assert found.rows[0].values == {"training.learning_rate": "0.3"}


def test_a_point_that_failed_after_a_good_run_is_failed(tmp_path: Path) -> None:
    folder = sweep(tmp_path, "done", "done")
    point = kept.points(folder)[0]
    point.status, point.reason = "failed", "there is no such score"
    point.save(folder)
    assert {row.number: row.status for row in compare([folder]).rows} == {1: "failed", 2: "done"}


def test_a_sweep_and_other_runs_compare_by_their_settings(tmp_path: Path, root: Path) -> None:
    found = compare([sweep(tmp_path / "other", "done"), root / "r-1"])
    assert len(found.rows) == 2
    assert "training.seed" in found.keys
    assert [row.number for row in sorted(found.rows, key=lambda row: row.number)] == [1, 2]
