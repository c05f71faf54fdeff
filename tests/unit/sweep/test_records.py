"""What is kept of a sweep: its folder, its file and a file for each point."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.config.schema import RunConfig
from sft.errors import DataError
from sft.sweep import records
from sft.sweep.records import SweepRecord
from tests.support.configs import composed


def config(*overrides: str) -> RunConfig:
    return composed(*overrides)


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
