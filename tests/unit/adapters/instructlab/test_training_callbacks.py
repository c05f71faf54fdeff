"""What callbacks are told: each step once, each epoch when it is over, also where a training is resumed."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.callbacks import Callback
from sft.adapters.instructlab import training_callbacks
from sft.adapters.instructlab.training_callbacks import TrainingCallbacks
from sft.errors import StageError


def rows(logs: Path, *steps: int, per_epoch: int = 3) -> None:
    text = "".join(json.dumps({"step": step, "epoch": (step - 1) // per_epoch}) + "\n" for step in steps)
    (logs / "metrics.jsonl").write_text(text, encoding="utf-8")


def resumed(logs: Path, step: int) -> None:
    (logs / "resumed.json").write_text(json.dumps({"step": step}), encoding="utf-8")


def listening(logs: Path) -> tuple[TrainingCallbacks, list[Any]]:
    told: list[Any] = []

    def on_step(row: dict[str, Any]) -> None:
        told.append(row["step"])
        row.clear()

    def on_epoch(epoch: int, row: dict[str, Any]) -> None:
        told.append(f"epoch {epoch} at {row['step']}")

    def on_end(facts: dict[str, Any]) -> None:
        told.append(facts)

    methods = {"on_step": on_step, "on_epoch": on_epoch, "on_end": on_end}
    return TrainingCallbacks([Callback("mine", methods)], logs), told


def poll(callbacks: TrainingCallbacks) -> None:
    callbacks.poll()
    callbacks._calls.finish()


def test_steps_epochs_and_the_end_come_once_each_in_order(tmp_path: Path) -> None:
    resumed(tmp_path, 0)
    callbacks, told = listening(tmp_path)
    rows(tmp_path, 1, 2)
    poll(callbacks)
    poll(callbacks)
    assert told == [1, 2]
    rows(tmp_path, 1, 2, 3, 4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')  # is being written
    poll(callbacks)
    assert told == [1, 2, 3, "epoch 0 at 3", 4]
    rows(tmp_path, 1, 2, 3, 4, 5)
    (tmp_path / "finished.json").write_text('{"step": 5}')
    callbacks.end()
    assert told[5:] == [5, "epoch 1 at 5", {"step": 5}]


def test_steps_that_were_made_before_a_resume_are_told_to_nobody(tmp_path: Path) -> None:
    resumed(tmp_path, 4)
    callbacks, told = listening(tmp_path)
    rows(tmp_path, 1, 2, 3, 4, 5)
    poll(callbacks)
    assert told == [5]


def test_an_epoch_that_was_over_before_a_resume_is_told_all_the_same(tmp_path: Path) -> None:
    resumed(tmp_path, 3)
    callbacks, told = listening(tmp_path)
    rows(tmp_path, 1, 2, 3, 4)
    poll(callbacks)
    assert told == ["epoch 0 at 3", 4]


def test_steps_that_are_made_again_after_a_rank_was_lost_are_told_once(tmp_path: Path) -> None:
    resumed(tmp_path, 0)
    callbacks, told = listening(tmp_path)
    rows(tmp_path, 1, 2, 3)
    poll(callbacks)
    callbacks.begin()
    resumed(tmp_path, 1)
    rows(tmp_path, 1, 2, 3, 4)
    poll(callbacks)
    assert told == [1, 2, 3, "epoch 0 at 3", 4]


def test_nothing_is_read_where_nobody_listens(tmp_path: Path) -> None:
    callbacks = TrainingCallbacks((), tmp_path / "not there")
    callbacks.poll()
    callbacks.end()


def test_the_last_steps_of_ranks_that_were_stopped_are_told_before_the_run_leaves(tmp_path: Path) -> None:
    resumed(tmp_path, 0)
    callbacks, told = listening(tmp_path)
    callbacks.leave()  # before anything was trained
    assert told == []
    rows(tmp_path, 1)
    poll(callbacks)
    rows(tmp_path, 1, 2, 3)
    callbacks.leave()
    assert told == [1, 2, 3]


def test_one_that_hangs_holds_up_neither_the_watching_nor_the_leaving_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_callbacks, "_LONGEST_SECONDS", 0.3)
    monkeypatch.setattr(training_callbacks, "_LEAVING_SECONDS", 0.1)
    resumed(tmp_path, 0)
    rows(tmp_path, 1, 2)
    goes_on, told = threading.Event(), []

    def on_step(row: dict[str, Any]) -> None:
        told.append(row["step"])
        goes_on.wait()

    callbacks = TrainingCallbacks([Callback("pager (acme-sft 1.2)", {"on_step": on_step})], tmp_path)
    callbacks.poll()
    callbacks.leave()
    time.sleep(0.4)
    said = r"^callback pager \(acme-sft 1\.2\): on_step has not returned for 0\.3 s"
    with pytest.raises(StageError, match=said):
        callbacks.poll()
    (tmp_path / "finished.json").write_text('{"step": 2}')
    with pytest.raises(StageError, match=said) as caught:
        callbacks.end()
    assert "training.callbacks" in str(caught.value.fix)
    assert told == [1]
    goes_on.set()


def test_one_that_fails_is_told_nothing_more_and_ends_the_next_look(tmp_path: Path) -> None:
    resumed(tmp_path, 0)
    rows(tmp_path, 1, 2, 3)
    told = []

    def on_step(row: dict[str, Any]) -> None:
        told.append(row["step"])
        if row["step"] == 2:
            raise ValueError("no connection")

    callbacks = TrainingCallbacks([Callback("mine", {"on_step": on_step})], tmp_path)
    with pytest.raises(StageError, match="callback mine: on_step failed: ValueError: no connection"):
        poll(callbacks)
    with pytest.raises(StageError, match="no connection"):
        callbacks.poll()
    callbacks.leave()
    assert told == [1, 2]
