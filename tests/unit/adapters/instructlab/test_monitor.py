"""What is seen of a run at work."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sft.adapters.instructlab.layout import ADAPTERS, COMPILED, METRICS, RESUMED, STACKS, UNTRACKED
from sft.adapters.instructlab.monitor import RankLost, TrainingMonitor, TrainingProgress
from sft.files import write_json


def view(logs: Path, seen: list[TrainingProgress], said: list[str], *, timeout: float = 1800.0) -> TrainingMonitor:
    return TrainingMonitor(logs, timeout, seen.append, said.append)


def begin(logs: Path, *, step: int = 0, damaged: tuple[str, ...] = ()) -> None:
    length = {"num_steps": 10, "num_epochs": 2}
    write_json(logs / RESUMED, {"step": step, "epoch": 0, **length, "damaged": list(damaged), "slower": []})


def row(step: int) -> str:
    return json.dumps({"step": step, "seconds": 0.5}) + "\n"


def test_the_newest_whole_row_is_shown_with_the_length_of_the_run(tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    looking = view(tmp_path, seen, [])
    looking.poll()
    begin(tmp_path)
    (tmp_path / METRICS).write_text(row(1) + row(2) + row(3)[:9])
    looking.poll()
    assert [(live.row["step"], live.num_steps, live.num_epochs) for live in seen] == [(2, 10, 2)]
    assert seen[0].seconds_left == 0.5 * 8
    (tmp_path / METRICS).write_text(row(1) + row(2) + row(3))
    looking.poll()
    assert seen[-1].row["step"] == 3


def test_a_validation_is_told_by_name_of_a_few_at_most() -> None:
    row = {"step": 3, "epoch": 0, "loss": 1.5, "learning_rate": 1e-3, "memory_bytes": 1 << 30}
    row |= {"tokens_per_second": 100.0, "loss_tokens_per_second": 50.0, "validation_loss": 1.25}
    told = TrainingProgress(row | {"validation_loss.gold": 1.0, "validation_loss.chat": 2.0}, 10, 1, 5.0).line
    assert ", loss 1.5000, validation loss 1.2500 (gold 1.0000, chat 2.0000), lr " in told
    many = {f"validation_loss.set_{number}": 1.0 for number in range(5)}
    assert "set_3 1.0000, …), lr " in TrainingProgress(row | many, 10, 1, 5.0).line
    assert "validation loss 1.2500, lr " in TrainingProgress(row, 10, 1, 5.0).line


def test_a_run_that_goes_on_says_from_where_and_shows_no_old_step(tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    said: list[str] = []
    (tmp_path / METRICS).write_text(row(1) + row(2))
    begin(tmp_path, step=2, damaged=("full state step_3 is damaged: x",))
    looking = view(tmp_path, seen, said)
    looking.poll()
    assert said == ["  full state step_3 is damaged: x; it is not used", "  resumes after step 2, in epoch 1"]
    assert seen == []


def test_what_is_adapted_and_what_is_not_is_said_at_the_start(tmp_path: Path) -> None:
    said: list[str] = []
    facts = {"num_trained": 4096, "num_adapters": 14, "adapted": ["q_proj"], "saved_whole": ["norm"]}
    write_json(tmp_path / ADAPTERS, {**facts, "not_adapted": ["lm_head", "up_proj"]})
    write_json(tmp_path / RESUMED, {"step": 0, "epoch": 0, "damaged": [], "slower": []})
    looking = view(tmp_path, [], said)
    (tmp_path / METRICS).touch()
    looking.poll()
    looking.poll()
    assert said == [
        "  trains 4,096 parameters: 14 adapters (q_proj), and all of norm",
        "  not adapted: lm_head, up_proj",
    ]


def test_what_was_compiled_is_said_once_and_each_reason_for_what_was_not(tmp_path: Path) -> None:
    said: list[str] = []
    looking = view(tmp_path, [], said)
    for breaks in ({}, {}, {"a loop over data": 2}, {"a loop over data": 4, "print": 1}):
        write_json(tmp_path / COMPILED, {"seconds": 41.6, "num_graphs": 4, "breaks": breaks})
        looking.poll()
    assert said == [
        "  layers are compiled: it took 42 s",
        "  not compiled, 2 times: a loop over data",
        "  not compiled, 1 times: print",
    ]


def test_a_run_that_writes_nothing_hangs_and_each_ranks_innermost_frames_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sft.adapters.instructlab.monitor._STACK_SECONDS", 0.1)
    (tmp_path / STACKS).mkdir()
    threads = 'Thread 0x1 (most recent call first):\n  File "other.py", line 1 in wait\n\n'
    main = 'Thread 0x2 (most recent call first):\n  File "here.py", line 7 in stuck\n  File "x.py", line 1 in f\n'
    (tmp_path / STACKS / "rank_0.txt").write_text(threads + main)
    (tmp_path / STACKS / "rank_1.txt").touch()
    looking = view(tmp_path, [], [], timeout=0.2)
    looking.poll()
    time.sleep(0.3)
    with pytest.raises(RankLost) as caught:
        looking.poll()
    assert "before the first step" in caught.value.message
    assert 'rank 0: \n    File "here.py", line 7 in stuck\n    File "x.py"' in caught.value.message
    assert "rank 1: no answer; it is stopped" in caught.value.message
    assert "other.py" not in caught.value.message


def test_any_file_that_changes_is_a_sign_of_life(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    looking = view(logs, [], [], timeout=0.3)
    for _ in range(4):
        time.sleep(0.2)
        (tmp_path / "state.bin").write_text("saving")
        looking.poll()


def test_a_tracker_that_was_lost_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    looking = view(tmp_path, [], said)
    write_json(tmp_path / UNTRACKED, {"mlflow": "ConnectionError: away"})
    looking.poll()
    looking.poll()
    assert said == ["  mlflow gets no more rows: ConnectionError: away"]
