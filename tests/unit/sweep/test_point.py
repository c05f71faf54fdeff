"""What is kept of a sweep, which points are not run, and what a sampler gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.adapters.os import machine
from sft.artifacts import CheckpointArtifact, EvalReport
from sft.config.compose import compose, find_recipe
from sft.config.schema import RunConfig
from sft.errors import DataError, StageError
from sft.scores import Score
from sft.sweep import records
from sft.sweep.point import check_point, score
from sft.sweep.records import Point, SweepRecord

ONE_RANK = ["training.launcher.procs_per_worker=1"]


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", tuple)
    monkeypatch.setattr(machine, "host_bytes", lambda: 16 << 30)


def config(*overrides: str) -> RunConfig:
    return compose(find_recipe("quickstart"), overrides)


def judged(*overrides: list[str], until: str | None = None) -> list[Point]:
    points: list[Point] = []
    for one in overrides:
        cfg = config(*one)
        point = records.point(len(points) + 1, dict(text.partition("=")[::2] for text in one), cfg)
        check_point(point, cfg, until, points, 1)
        points.append(point)
    return points


def test_on_one_rank_only_one_strategy_is_run_and_the_others_say_why() -> None:
    names = ("full_shard", "shard_grad_op", "no_shard")
    found = judged(*[[f"training/fsdp={name}", *ONE_RANK] for name in names])
    assert [(point.status, point.twin) for point in found] == [("pending", None), ("same", 1), ("same", 1)]
    assert found[1].reason == (
        "the same work as point 1 (training.fsdp.sharding_strategy=SHARD_GRAD_OP: one rank has nothing to shard over; "
        "NO_SHARD)"
    )


def test_what_can_not_fit_is_not_run_and_is_nobodys_twin() -> None:
    huge = ["training.max_tokens_per_gpu=100000000", "training.max_seq_len=256"]
    found = judged(huge, huge, ["training.max_seq_len=256"])
    assert [point.status for point in found] == ["skipped", "skipped", "pending"]
    assert "GiB per rank by the estimate, there are" in str(found[0].reason)


def test_only_the_steps_that_are_reached_make_points_differ() -> None:
    overrides = (["eval.limit=1"], ["eval.limit=2"])
    assert [point.status for point in judged(*overrides)] == ["pending", "pending"]
    assert [point.status for point in judged(*overrides, until="train")] == ["pending", "same"]


def test_the_same_sweep_has_the_same_folder_and_another_one_another() -> None:
    def folder(*overrides: str, varied: dict[str, str], engine: list[str] | None = None) -> Path:
        return records.folder_of(config(*overrides), varied, engine or [])

    rates = {"training.learning_rate": "1,2"}
    first = folder("training.learning_rate=1", varied=rates)
    assert first == folder("training.learning_rate=1", varied=rates)
    assert first.parent == Path("runs/sweeps")
    others = [
        folder("training.learning_rate=1", "training.seed=3", varied=rates),
        folder("training.learning_rate=1", varied={"training.learning_rate": "1,3"}),
        folder("training.learning_rate=1", varied=rates, engine=["optuna"]),
        folder("training.learning_rate=1", "sweep.objective=train.loss", varied=rates),
    ]
    assert len({first, *others}) == 5
    strategies = {"training/fsdp": "full_shard,no_shard"}
    assert folder("training/fsdp=full_shard", varied=strategies) == folder(
        "training/fsdp=full_shard", varied=strategies
    )


def test_points_and_sweep_are_read_as_they_were_written(tmp_path: Path) -> None:
    sweep = SweepRecord(
        name="s", status="done", recipe="r.yaml", command=["sft"], cwd="/", sweeper="basic", launcher="basic",
        varied={"a": "1,2"}, objective="holdout.loss", higher_is_better=False, started_at=records.now(),
    )  # fmt: skip
    sweep.save(tmp_path)
    points = [
        records.point(number, {"training.seed": str(number)}, config(f"training.seed={number}")) for number in (1, 2)
    ]
    for point in reversed(points):
        point.save(tmp_path)
    assert records.load(tmp_path) == sweep
    assert records.points(tmp_path) == points
    records.clear_points(tmp_path)
    assert records.points(tmp_path) == []


def test_a_secret_is_in_no_file_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-1234")
    uri = "s3://bucket/canary-1234.jsonl"
    records.point(1, {"dataset.uri": uri}, config(f"dataset.uri={uri}")).save(tmp_path)
    assert all("canary" not in path.read_text() for path in tmp_path.rglob("*.json"))


@pytest.mark.parametrize("damage", [b"", b"{", b'{"digest": "0"}\n'])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / records.NAME).write_bytes(damage)
    with pytest.raises(DataError, match=records.NAME):
        records.load(tmp_path)


def made(*scores: Score) -> dict[str, CheckpointArtifact | EvalReport]:
    checkpoint = CheckpointArtifact(root=Path(), num_steps=1, num_epochs=1, final_loss=0.5, world_size=1)
    return {"train": checkpoint, "evaluate:tuned": EvalReport(root=Path(), model_digest="", scores=scores)}


ACCURACY = Score(task="t", metric="acc", value=0.9, stderr=None, num_samples=1, higher_is_better=True)


def test_the_objective_is_a_score_of_the_tuned_model_or_the_last_loss() -> None:
    assert score(made(ACCURACY), "t.acc", higher_is_better=True) == 0.9
    assert score(made(), "train.loss", higher_is_better=False) == 0.5


def test_an_objective_that_is_missing_names_what_there_is() -> None:
    with pytest.raises(StageError, match=r"sweep.objective=t.f1: there is no such score\n.*one of train.loss, t.acc"):
        score(made(ACCURACY), "t.f1", higher_is_better=None)


def test_a_sampler_that_goes_the_wrong_way_is_stopped() -> None:
    with pytest.raises(StageError, match=r"better when it is higher\n.*hydra.sweeper.direction=maximize"):
        score(made(ACCURACY), "t.acc", higher_is_better=False)
    assert score(made(ACCURACY), "t.acc", higher_is_better=None) == 0.9  # no sampler, no direction
