"""Finding the cause among what failed."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.monitor import RankLost
from sft.adapters.instructlab.settings import LaunchSettings, Nodes
from sft.adapters.instructlab.torchrun import _environment, _failure, checkpoint
from sft.errors import StageError
from sft.files import write_json


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
    assert error.message == "training failed: rank 1 was killed by SIGKILL (perhaps out of memory)"
    assert error.fix is not None


def test_out_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    error = fail(tmp_path, ranks={0: (1.0, "CUDA out of memory. Tried to allocate 2 GiB")}, statuses={0: 1})
    assert error.fix is not None
    assert "training.max_tokens_per_gpu" in error.fix


def test_a_run_without_the_checkpoint_of_its_last_sample_has_failed(tmp_path: Path) -> None:
    (tmp_path / "hf_format" / "samples_190").mkdir(parents=True)
    with pytest.raises(StageError, match=r"without a checkpoint after 200 samples \(saved: samples_190\)"):
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


def test_malloc_takes_huge_pages_unless_the_machine_or_the_recipe_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main: Any = SimpleNamespace(output_dir="out", trust_remote_code=False)

    def tunables(env: dict[str, str]) -> str:
        settings = LaunchSettings(num_processes=1, nodes=Nodes(), env=env, stall_timeout_seconds=1)
        return _environment(settings, main)["GLIBC_TUNABLES"]

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert tunables({}) == "glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    assert tunables({}) == "glibc.malloc.arena_max=2"
    assert tunables({"GLIBC_TUNABLES": ""}) == ""


@pytest.mark.parametrize(("gpus", "visible"), [(None, None), ((), ""), (("3", "1"), "3,1"), (("MIG-c7",), "MIG-c7")])
def test_ranks_see_the_gpus_that_were_counted_for_them(gpus: tuple[str, ...] | None, visible: str | None) -> None:
    main: Any = SimpleNamespace(output_dir="out", trust_remote_code=False)
    settings = LaunchSettings(num_processes=1, nodes=Nodes(), env={}, stall_timeout_seconds=1, gpus=gpus)
    environment = _environment(settings, main)
    assert environment.get("CUDA_VISIBLE_DEVICES") == visible
    assert environment.get("CUDA_DEVICE_ORDER") == (None if gpus is None else "PCI_BUS_ID")
