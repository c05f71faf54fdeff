"""What callbacks are told: each step once, each epoch when it is over, also where a training is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sft.adapters.callbacks import Callback
from sft.adapters.instructlab.training_callbacks import TrainingCallbacks


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


def test_steps_epochs_and_the_end_come_once_each_in_order(tmp_path: Path) -> None:
    resumed(tmp_path, 0)
    callbacks, told = listening(tmp_path)
    rows(tmp_path, 1, 2)
    callbacks.poll()
    callbacks.poll()
    assert told == [1, 2]
    rows(tmp_path, 1, 2, 3, 4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')  # is being written
    callbacks.poll()
    assert told == [1, 2, 3, "epoch 0 at 3", 4]
    rows(tmp_path, 1, 2, 3, 4, 5)
    (tmp_path / "finished.json").write_text('{"step": 5}')
    callbacks.end()
    assert told[5:] == [5, "epoch 1 at 5", {"step": 5}]


def test_steps_that_were_made_before_a_resume_are_told_to_nobody(tmp_path: Path) -> None:
    resumed(tmp_path, 4)
    callbacks, told = listening(tmp_path)
    rows(tmp_path, 1, 2, 3, 4, 5)
    callbacks.poll()
    assert told == [5]


def test_an_epoch_that_was_over_before_a_resume_is_told_all_the_same(tmp_path: Path) -> None:
    resumed(tmp_path, 3)
    callbacks, told = listening(tmp_path)
    rows(tmp_path, 1, 2, 3, 4)
    callbacks.poll()
    assert told == ["epoch 0 at 3", 4]


def test_steps_that_are_made_again_after_a_rank_was_lost_are_told_once(tmp_path: Path) -> None:
    resumed(tmp_path, 0)
    callbacks, told = listening(tmp_path)
    rows(tmp_path, 1, 2, 3)
    callbacks.poll()
    callbacks.begin()
    resumed(tmp_path, 1)
    rows(tmp_path, 1, 2, 3, 4)
    callbacks.poll()
    assert told == [1, 2, 3, "epoch 0 at 3", 4]


def test_nothing_is_read_where_nobody_listens(tmp_path: Path) -> None:
    callbacks = TrainingCallbacks((), tmp_path / "not there")
    callbacks.poll()
    callbacks.end()
