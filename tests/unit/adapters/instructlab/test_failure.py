"""Finding the cause among what failed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.failure import failure
from sft.adapters.instructlab.monitor import RankKilled, RankLost
from sft.adapters.instructlab.settings import Nodes
from sft.errors import StageError
from sft.files import write_json


def fail(folder: Path, *, ranks: dict[int, tuple[float, str]], statuses: dict[int, int]) -> StageError:
    for rank, (at, message) in ranks.items():
        facts: dict[str, Any] = {"type": "RuntimeError", "message": message, "time": at}
        write_json(folder / f"rank_{rank}.json", facts)
    write_json(folder / "agent_0.json", {"exit_statuses": statuses})
    (folder / "log").touch()
    return failure(folder, Nodes(), 1, folder / "log")


def test_the_rank_that_failed_first_is_quoted(tmp_path: Path) -> None:
    ranks = {0: (2.0, "Connection closed by peer"), 1: (1.0, "the cause")}
    error = fail(tmp_path, ranks=ranks, statuses={0: 1, 1: -signal.SIGTERM})
    assert error.message == "training failed: RuntimeError: the cause"


def test_a_killed_rank_is_the_cause_even_where_another_one_wrote_an_error(tmp_path: Path) -> None:
    error = fail(tmp_path, ranks={0: (1.0, "Connection closed by peer")}, statuses={0: 1, 1: -signal.SIGKILL})
    assert error.message == "training failed: rank 1 was killed by SIGKILL (perhaps out of memory)"
    assert error.fix is not None


def test_out_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    error = fail(tmp_path, ranks={0: (1.0, "CUDA out of memory. Tried to allocate 2 GiB")}, statuses={0: 1})
    assert error.fix is not None
    assert "training.max_tokens_per_gpu" in error.fix


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


def test_a_rank_that_the_kernel_killed_is_this_nodes_own_loss(tmp_path: Path) -> None:
    assert isinstance(fail(tmp_path, ranks={}, statuses={0: 1, 1: -signal.SIGKILL}), RankKilled)
    assert not isinstance(fail(tmp_path, ranks={}, statuses={0: -signal.SIGABRT}), RankKilled)


def test_nccls_abort_of_a_rank_comes_after_the_error_that_another_rank_wrote(tmp_path: Path) -> None:
    error = fail(tmp_path, ranks={1: (1.0, "the loss is nan")}, statuses={0: -signal.SIGABRT, 1: 1})
    assert not isinstance(error, RankLost)
    assert "the loss is nan" in error.message


def test_an_error_of_ours_is_the_cause_whatever_the_nodes_clocks_say(tmp_path: Path) -> None:
    own = {"type": "StageError", "message": "the loss is nan", "expected": "yes", "time": 9.0}
    write_json(tmp_path / "rank_5.json", own)
    error = fail(tmp_path, ranks={0: (1.0, "Connection closed by peer")}, statuses={0: 1})
    assert (type(error), error.message) == (StageError, "training failed: the loss is nan")


def test_what_torch_distributed_raises_is_a_loss_whatever_its_words(tmp_path: Path) -> None:
    write_json(tmp_path / "rank_0.json", {"type": "DistNetworkError", "message": "recvValue failed", "time": 1.0})
    assert isinstance(fail(tmp_path, ranks={}, statuses={0: 1}), RankLost)
