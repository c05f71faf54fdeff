"""Full states: whole or absent, checked before use, pruned. The accelerator is a stand-in that writes one file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.rank.full_states import FullStates, Position
from sft.errors import StageError

pytestmark = [
    pytest.mark.slow,  # imports torch
    # Warned by torch when gloo finds no network but the loopback.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Accelerator:
    """Saves one number and loads it again."""

    def __init__(self) -> None:
        self.number = 0

    def save_state(self, *, output_dir: Path) -> None:
        (output_dir / "nested").mkdir(parents=True)
        (output_dir / "nested" / "optimizer.bin").write_text(str(self.number))

    def load_state(self, folder: str) -> None:
        self.number = int((Path(folder) / "nested" / "optimizer.bin").read_text())


@pytest.fixture(autouse=True)
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def save(root: Path, *steps: int, keep: int = 1) -> None:
    accelerator = Accelerator()
    states = FullStates(root / "states", keep=keep)
    for step in steps:
        accelerator.number = step
        states.save(accelerator, at(step))


def at(step: int) -> Position:
    return Position(step=step, epoch=step // 10, steps_in_epoch=step % 10, samples_seen=step * 32)


def load(root: Path, *, keep: int = 1) -> tuple[int, Position, list[str]]:
    accelerator = Accelerator()
    return accelerator.number, *FullStates(root / "states", keep=keep).load(accelerator)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "states").iterdir())


def test_a_run_without_a_state_begins_at_the_start(tmp_path: Path) -> None:
    assert load(tmp_path)[1:] == (Position(), [])


@pytest.mark.parametrize(("keep", "left"), [(1, ["step_11"]), (2, ["step_11", "step_9"])])
def test_the_newest_states_stay(keep: int, left: list[str], tmp_path: Path) -> None:
    save(tmp_path, 2, 9, 11, keep=keep)
    assert names(tmp_path) == left
    assert load(tmp_path)[1:] == (at(11), [])


def test_a_state_that_a_kill_cut_short_is_not_seen(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / "states" / ".step_6").mkdir()
    assert load(tmp_path)[1:] == (at(5), [])
    save(tmp_path, 6)
    assert names(tmp_path) == ["step_6"]


def flip(state: Path) -> None:
    (state / "nested" / "optimizer.bin").write_text("8")


def remove(state: Path) -> None:
    (state / "nested" / "optimizer.bin").unlink()


def forget(state: Path) -> None:
    (state / "state.json").write_text("{")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip, "nested/optimizer.bin has changed since it was saved"),
        (remove, "nested/optimizer.bin is missing"),
        (forget, "state.json can't be read"),
    ],
)
def test_a_damaged_state_is_removed_and_the_one_before_it_is_taken(harm: Any, said: str, tmp_path: Path) -> None:
    save(tmp_path, 5, 9, keep=2)
    harm(tmp_path / "states" / "step_9")
    assert load(tmp_path)[1:] == (at(5), [f"full state step_9 is damaged: {said}"])
    assert names(tmp_path) == ["step_5"]


def test_every_file_of_a_state_has_its_digest_and_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(handle))
    save(tmp_path, 3)
    assert list(json.loads((tmp_path / "states" / "step_3" / "state.json").read_text())["files"]) == [
        "nested/optimizer.bin"
    ]
    assert len(synced) == 3  # the file, the facts, and the folder that now holds the new name


def failing(root: Path, error: Exception) -> None:
    class Failing(Accelerator):
        def save_state(self, *, output_dir: Path) -> None:
            raise error

    FullStates(root / "states", keep=1).save(Failing(), at(6))


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "free space"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 98688 vs 98576"), "free space"),
        (OSError(28, "No space left on device"), "free space"),
        (PermissionError(13, "Permission denied"), "let this run write to"),
    ],
)
def test_a_state_that_can_not_be_written_leaves_the_one_before_it(error: Exception, fix: str, tmp_path: Path) -> None:
    save(tmp_path, 5)
    with pytest.raises(StageError, match="the full state of step 6 can't be written") as caught:
        failing(tmp_path, error)
    assert fix in str(caught.value.fix)
    assert load(tmp_path)[1:] == (at(5), [])


@pytest.mark.parametrize("kind", ["OutOfMemoryError", "distributed.DistBackendError"])
def test_memory_and_connections_are_not_taken_for_a_full_disk(kind: str, tmp_path: Path) -> None:
    import torch

    module, _, name = kind.rpartition(".")
    error = getattr(getattr(torch, module) if module else torch, name)
    with pytest.raises(error, match="CUDA out of memory or NCCL"):
        failing(tmp_path, error("CUDA out of memory or NCCL"))
