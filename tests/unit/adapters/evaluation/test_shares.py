"""How the work of an evaluation is dealt, and the processes that help with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.evaluation.shares import Share, helpers
from sft.errors import StageError

HELPER = """
import time
from pathlib import Path
from sft.adapters.os import child

def work(request):
    Path(request["out"], "pid").write_text(str(__import__("os").getpid()))
    if request["fail"] == request["share"]["index"]:
        raise ValueError("no such tensor")
    time.sleep(60)
    return {}

child.main(work)
"""


@pytest.mark.parametrize("num", [1, 2, 3, 7])
def test_every_item_is_dealt_once_and_batches_stay_whole(num: int) -> None:
    batches = [[1, 2, 3], [4, 5], [6], [7, 8, 9], [10]]
    shares = [Share(index, num).of(batches) for index in range(num)]
    assert sorted(item for share in shares for item in share) == list(range(1, 11))
    assert all({*batch} <= {*share} or not {*batch} & {*share} for share in shares for batch in batches)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that a child can run, beside those of this project."""
    (tmp_path / "helper_of_a_test.py").write_text(HELPER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[4])]))
    return "helper_of_a_test"


def request_of(folder: Path, num: int, fail: int = 0) -> dict[str, Any]:
    return {
        "share": {"index": 0, "num": num},
        "devices": [],
        "progress": str(folder / "progress.json"),
        "out": str(folder),
        "fail": fail,
    }


def pids(folder: Path, num: int) -> list[int]:
    files = [folder / f"process-{index}" / "pid" for index in range(1, num)]
    while not all(file.exists() and file.read_text() for file in files):
        time.sleep(0.05)
    return [int(file.read_text()) for file in files]


def wait_while(is_true: Callable[[], bool]) -> None:
    while is_true():
        time.sleep(0.05)


def test_helpers_work_until_the_block_ends(module: str, tmp_path: Path) -> None:
    with helpers(module, request_of(tmp_path, 3)) as check:
        found = pids(tmp_path, 3)
        assert check()
        assert all(Path(f"/proc/{pid}").exists() for pid in found)
    assert not any(Path(f"/proc/{pid}").exists() for pid in found)


def test_a_helper_that_fails_is_named_with_its_own_error(module: str, tmp_path: Path) -> None:
    with helpers(module, request_of(tmp_path, 3, fail=2)) as check:
        pids(tmp_path, 3)
        with pytest.raises(StageError, match="evaluating in process-2 failed: ValueError: no such tensor"):
            wait_while(check)


def test_alone_nothing_is_started(tmp_path: Path) -> None:
    with helpers("no_such_module", request_of(tmp_path, 1)) as check:
        assert not check()
    assert list(tmp_path.iterdir()) == []
