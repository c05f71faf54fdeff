"""Reading the library's metrics file over restarts, and finding the cause among what failed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.child import write_json
from sft.adapters.instructlab.launch import Step, _failure, _Metrics, check_losses, checkpoint
from sft.errors import StageError

ROWS, BATCH = 10, 4  # 3 steps per epoch, the last one of 2 samples


def row(epoch: int, samples_in_epoch: int, *, step: int, loss: float = 1.0) -> str:
    facts = {"epoch": epoch, "step": step, "samples_seen": epoch * ROWS + samples_in_epoch, "avg_loss": loss}
    facts |= {"lr": 0.1, "num_tokens_rank0": 9, "num_loss_counted_tokens": 5, "overall_throughput": 2.0}
    return json.dumps({**facts, "total_samples": ROWS, "num_epoch_steps": 3}) + "\n"


def test_steps_are_numbered_over_restarts_and_the_last_row_of_a_step_wins(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    first = [row(0, seen, step=n) for n, seen in enumerate((4, 8, 10), start=1)]
    file.write_text(json.dumps({"num_gpus": 2}) + "\n" + "".join(first) + row(1, 4, step=4) + row(1, 8, step=5)[:40])
    shown: list[tuple[int, int]] = []
    metrics = _Metrics(file, BATCH, lambda step, per_epoch: shown.append((step.step, per_epoch)))
    metrics.read()
    with file.open("a") as after_restart:
        after_restart.writelines(row(1, seen, step=n, loss=0.5) for n, seen in enumerate((4, 8, 10), start=1))
    metrics.read()
    assert [(step.step, step.samples_seen, step.loss) for step in metrics.steps()] == [
        (1, 4, 1.0),
        (2, 8, 1.0),
        (3, 10, 1.0),
        (4, 14, 0.5),
        (5, 18, 0.5),
        (6, 20, 0.5),
    ]
    assert shown == [(4, 3), (6, 3)]


def test_a_row_that_is_still_being_written_waits_for_its_end(tmp_path: Path) -> None:
    file, whole = tmp_path / "metrics.jsonl", row(0, 4, step=1)
    metrics = _Metrics(file, BATCH, lambda *_: None)
    metrics.read()
    file.write_text(whole[:30])
    metrics.read()
    assert metrics.steps() == []
    file.write_text(whole)
    metrics.read()
    assert [step.step for step in metrics.steps()] == [1]


def fail(folder: Path, *, ranks: dict[int, tuple[float, str]], statuses: dict[int, int]) -> StageError:
    for rank, (at, message) in ranks.items():
        facts: dict[str, Any] = {"type": "RuntimeError", "message": message, "time": at}
        write_json(folder / f"rank_{rank}.json", facts)
    write_json(folder / "agent.json", {"exit_statuses": statuses})
    (folder / "log").touch()
    return _failure(folder, 1, folder / "log")


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


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_fails_the_run(loss: float) -> None:
    facts = {"samples_seen": 1, "learning_rate": 0.1, "num_tokens": 1, "num_loss_tokens": 1, "samples_per_second": 1.0}
    with pytest.raises(StageError, match="at step 7"):
        check_losses([Step(step=7, epoch=0, loss=loss, **facts)])  # type: ignore[arg-type]


def test_a_run_without_a_step_has_failed() -> None:
    with pytest.raises(StageError, match="without an optimizer step"):
        check_losses([])
