"""What is seen of a run at work, and finding the cause among what failed."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.child import write_json
from sft.adapters.instructlab.launch import STACKS, Live, RankLost, _failure, _View, checkpoint
from sft.adapters.instructlab.loop import METRICS, RESUMED
from sft.adapters.instructlab.settings import Nodes
from sft.errors import StageError


def view(logs: Path, seen: list[Live], said: list[str], *, timeout: float = 1800.0) -> _View:
    return _View(logs, 2, timeout, seen.append, said.append)


def begin(logs: Path, *, step: int = 0, damaged: tuple[str, ...] = ()) -> None:
    write_json(logs / RESUMED, {"step": step, "epoch": 0, "steps_per_epoch": 5, "damaged": list(damaged)})


def row(step: int) -> str:
    return json.dumps({"step": step, "seconds": 0.5}) + "\n"


def test_the_newest_whole_row_is_shown_with_the_length_of_the_run(tmp_path: Path) -> None:
    seen: list[Live] = []
    looking = view(tmp_path, seen, [])
    looking.look()
    begin(tmp_path)
    (tmp_path / METRICS).write_text(row(1) + row(2) + row(3)[:9])
    looking.look()
    assert [(live.row["step"], live.num_steps, live.num_epochs) for live in seen] == [(2, 10, 2)]
    assert seen[0].seconds_left == 0.5 * 8
    (tmp_path / METRICS).write_text(row(1) + row(2) + row(3))
    looking.look()
    assert seen[-1].row["step"] == 3


def test_a_run_that_goes_on_says_from_where_and_shows_no_old_step(tmp_path: Path) -> None:
    seen: list[Live] = []
    said: list[str] = []
    (tmp_path / METRICS).write_text(row(1) + row(2))
    begin(tmp_path, step=2, damaged=("full state step_3 is damaged: x",))
    looking = view(tmp_path, seen, said)
    looking.look()
    assert said == ["  full state step_3 is damaged: x; it is not used", "  goes on after step 2, in epoch 1"]
    assert seen == []


def test_a_run_that_writes_nothing_hangs_and_each_ranks_innermost_frames_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sft.adapters.instructlab.launch._STACK_SECONDS", 0.1)
    (tmp_path / STACKS).mkdir()
    threads = 'Thread 0x1 (most recent call first):\n  File "other.py", line 1 in wait\n\n'
    main = 'Thread 0x2 (most recent call first):\n  File "here.py", line 7 in stuck\n  File "x.py", line 1 in f\n'
    (tmp_path / STACKS / "rank_0.txt").write_text(threads + main)
    (tmp_path / STACKS / "rank_1.txt").touch()
    looking = view(tmp_path, [], [], timeout=0.2)
    looking.look()
    time.sleep(0.3)
    with pytest.raises(RankLost) as caught:
        looking.look()
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
        looking.look()


def fail(folder: Path, *, ranks: dict[int, tuple[float, str]], statuses: dict[int, int]) -> StageError:
    for rank, (at, message) in ranks.items():
        facts: dict[str, Any] = {"type": "RuntimeError", "message": message, "time": at}
        write_json(folder / f"rank_{rank}.json", facts)
    write_json(folder / "agent_0.json", {"exit_statuses": statuses})
    (folder / "log").touch()
    return _failure(folder, Nodes(), 1, folder / "log")


def test_the_rank_that_failed_first_is_quoted(tmp_path: Path) -> None:
    ranks = {0: (2.0, "Connection closed by peer"), 1: (1.0, "the cause")}
    error = fail(tmp_path, ranks=ranks, statuses={0: 1, 1: -signal.SIGTERM})
    assert error.message == "training failed: RuntimeError: the cause"


def test_a_killed_rank_is_the_cause_even_where_another_one_wrote_an_error(tmp_path: Path) -> None:
    error = fail(tmp_path, ranks={0: (1.0, "Connection closed by peer")}, statuses={0: 1, 1: -signal.SIGKILL})
    assert error.message == "training failed: rank 1 was killed by SIGKILL (out of memory?)"
    assert error.fix is not None


def test_out_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    error = fail(tmp_path, ranks={0: (1.0, "CUDA out of memory. Tried to allocate 2 GiB")}, statuses={0: 1})
    assert error.fix is not None
    assert "training.max_tokens_per_gpu" in error.fix


def test_a_run_without_the_checkpoint_of_its_last_sample_has_failed(tmp_path: Path) -> None:
    (tmp_path / "hf_format" / "samples_190").mkdir(parents=True)
    with pytest.raises(StageError, match=r"without a checkpoint after 200 samples \(there is: samples_190\)"):
        checkpoint(tmp_path, 200)


@pytest.mark.parametrize(
    ("message", "lost", "fix"),
    [
        ("Connection closed by peer [127.0.0.1]:3", True, "training.max_restarts"),
        ("NCCL error in: x", True, "training.max_restarts"),
        ("[Errno 28] No space left on device: 'x'", False, "free space"),
        ("something else", False, "None"),
    ],
)
def test_what_may_go_well_the_next_time_is_told_from_what_will_not(
    message: str, lost: bool, fix: str, tmp_path: Path
) -> None:
    error = fail(tmp_path, ranks={0: (1.0, message)}, statuses={0: 1})
    assert isinstance(error, RankLost) == lost
    assert fix in str(error.fix)
