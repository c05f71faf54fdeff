"""Full states: whole or absent, checked before use, pruned. A process group of one rank, and a model of one number."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank import state_files
from sft.adapters.instructlab.rank.full_states import FullStates, Position, Resumed
from sft.errors import StageError

pytestmark = [
    pytest.mark.slow,  # imports torch
    # Warned by torch when gloo finds no network but the loopback, and of its own functions.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
PART = "__0_0.distcp"


def accelerator(number: float = 0) -> Any:
    """What a state is made of: one weight, AdamW, a learning rate that halves at each step."""
    import torch

    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, number)
    optimizer = torch.optim.AdamW(model.parameters(), 0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    return SimpleNamespace(
        model=SimpleNamespace(model=model), optimizer=SimpleNamespace(optimizer=optimizer), lr_scheduler=scheduler
    )


@pytest.fixture(autouse=True)
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def states_of(root: Path, *, keep: int = 1, state_id: str = "id", num_ranks: int = 1, **how: Any) -> FullStates:
    metrics = root / "metrics.jsonl"
    layout = {"num_ranks": num_ranks}
    return FullStates(root / "states", keep=keep, state_id=state_id, layout=layout, seed=0, metrics=metrics, **how)


def save(root: Path, *steps: int, keep: int = 1) -> None:
    states = states_of(root, keep=keep)
    for step in steps:
        states.save(accelerator(step), at(step))


def at(step: int) -> Position:
    return Position(step=step, epoch=step // 10, steps_in_epoch=step % 10, samples_seen=step * 32)


def load(root: Path, **settings: Any) -> tuple[float, Resumed]:
    made = accelerator()
    resumed = states_of(root, **settings).load(made)
    return made.model.model.weight.item(), resumed


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "states").iterdir())


def test_a_run_without_a_state_begins_at_the_start(tmp_path: Path) -> None:
    number, resumed = load(tmp_path)
    assert (number, resumed.position, resumed.damaged, resumed.metrics) == (0, Position(), [], b"")


@pytest.mark.parametrize(("keep", "left"), [(1, ["step_11"]), (2, ["step_11", "step_9"])])
def test_the_newest_states_stay(keep: int, left: list[str], tmp_path: Path) -> None:
    save(tmp_path, 2, 9, 11, keep=keep)
    assert names(tmp_path) == left
    number, resumed = load(tmp_path)
    assert (number, resumed.position, resumed.damaged) == (11, at(11), [])


def test_a_state_that_a_kill_cut_short_is_not_seen(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / "states" / ".step_6").mkdir()
    assert load(tmp_path)[0] == 5
    assert names(tmp_path) == ["step_5"]
    save(tmp_path, 6)
    assert names(tmp_path) == ["step_6"]


def flip(state: Path) -> None:
    content = bytearray((state / PART).read_bytes())
    content[len(content) // 2] ^= 1
    (state / PART).write_bytes(content)


def remove(state: Path) -> None:
    (state / ".metadata").unlink()


def forget(state: Path) -> None:
    (state / "state.json").write_text("{")


def by_another_version(state: Path) -> None:
    facts = json.loads((state / "state.json").read_text())
    (state / "state.json").write_text(json.dumps({**facts, "format": 1}))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip, "__0_0.distcp has changed since it was saved"),
        (remove, ".metadata is missing"),
        (forget, "state.json can't be read"),
        (by_another_version, "another version of sft wrote it"),
    ],
)
def test_a_damaged_state_is_removed_and_the_one_before_it_is_taken(harm: Any, said: str, tmp_path: Path) -> None:
    save(tmp_path, 5, 9, keep=2)
    harm(tmp_path / "states" / "step_9")
    number, resumed = load(tmp_path)
    assert (number, resumed.position, resumed.damaged) == (5, at(5), [f"full state step_9 is damaged: {said}"])
    assert names(tmp_path) == ["step_5"]


def test_every_file_of_a_state_has_its_digest_and_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(handle))
    (tmp_path / "metrics.jsonl").write_text("")
    save(tmp_path, 3)
    facts = json.loads((tmp_path / "states" / "step_3" / "state.json").read_text())
    assert sorted(facts["files"]) == [".metadata", PART, "metrics.jsonl"]
    assert len(synced) == 6  # these, the facts, the state's folder, and the folder that now holds its name


def test_a_state_of_another_training_is_not_used(tmp_path: Path) -> None:
    save(tmp_path, 5)
    number, resumed = load(tmp_path, state_id="other")
    assert (number, resumed.damaged) == (0, ["full state step_5 is damaged: it is of another training"])


def test_learning_rate_and_rows_of_metrics_come_back(tmp_path: Path) -> None:
    made = accelerator(1)
    made.optimizer.optimizer.step()
    made.lr_scheduler.step()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    states_of(tmp_path).save(made, at(1))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    again = accelerator()
    assert states_of(tmp_path).load(again).metrics == b'{"step": 1}\n'
    assert again.optimizer.optimizer.param_groups[0]["lr"] == 0.25


def test_each_stretch_on_other_ranks_is_told(tmp_path: Path) -> None:
    save(tmp_path, 5)
    assert load(tmp_path)[1].stretches == [{"from_step": 0, "num_ranks": 1}]
    states = states_of(tmp_path, num_ranks=2)
    expected = [{"from_step": 0, "num_ranks": 1}, {"from_step": 5, "num_ranks": 2}]
    assert states.load(accelerator()).stretches == expected
    states.save(accelerator(8), at(8))
    assert load(tmp_path, num_ranks=2)[1].stretches == expected


def test_random_numbers_continue(tmp_path: Path) -> None:
    import random

    import numpy as np
    import torch

    def draw() -> tuple[float, float, float, float]:
        normal = random.gauss(0, 1)  # of which Python makes two at a time
        return normal, random.random(), float(np.random.standard_normal()), torch.rand(1).item()

    draw()
    save(tmp_path, 5)
    expected = draw()
    draw()
    load(tmp_path)
    assert draw() == expected


def failing(root: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any, **_rest: Any) -> None:
        raise error

    monkeypatch.setattr(state_files, "write", write)
    states_of(root).save(accelerator(), at(6))


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "free space"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 98688 vs 98576"), "free space"),
        (OSError(28, "No space left on device"), "free space"),
        (PermissionError(13, "Permission denied"), "let this run write to"),
    ],
)
def test_a_state_that_can_not_be_written_leaves_the_one_before_it(
    error: Exception, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5)
    with pytest.raises(StageError, match="the full state of step 6 can't be written") as caught:
        failing(tmp_path, error, monkeypatch)
    assert fix in str(caught.value.fix)
    assert load(tmp_path)[0] == 5


@pytest.mark.parametrize("kind", ["OutOfMemoryError", "distributed.DistBackendError"])
def test_memory_and_connections_are_not_taken_for_a_full_disk(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    module, _, name = kind.rpartition(".")
    error = getattr(getattr(torch, module) if module else torch, name)
    with pytest.raises(error, match="CUDA out of memory or NCCL"):
        failing(tmp_path, error("CUDA out of memory or NCCL"), monkeypatch)


def test_a_hostile_state_is_passed_over_and_nothing_of_it_runs(tmp_path: Path) -> None:
    save(tmp_path, 5, 9, keep=2)
    state, witness = tmp_path / "states" / "step_9", tmp_path / "it ran"
    hostile = f"cos\nmkdir\n(V{witness}\ntR.".encode()
    (state / ".metadata").write_bytes(hostile)
    facts = json.loads((state / "state.json").read_text())
    facts["files"][".metadata"] = hashlib.sha256(hostile).hexdigest()
    (state / "state.json").write_text(json.dumps(facts))
    number, resumed = load(tmp_path)
    assert number == 5
    assert resumed.damaged == [
        "full state step_9 is damaged: .metadata is not read: it names os.mkdir, which no full state needs"
    ]
    assert not witness.exists()
    pickle.loads(hostile)
    assert witness.exists(), "the file is not hostile, so this proves nothing"


class SlowDisk:
    """Writes nothing until it is let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let, self.reached, write = threading.Event(), threading.Event(), state_files.write

        def wait_and_write(*what: Any, **how: Any) -> None:
            self.reached.set()
            assert self.let.wait(60)
            write(*what, **how)

        monkeypatch.setattr(state_files, "write", wait_and_write)


def test_what_is_trained_while_a_state_is_written_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    disk, states, made = SlowDisk(monkeypatch), states_of(tmp_path, in_background=True), accelerator(5)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    states.save(made, at(5))
    assert disk.reached.wait(60)
    assert not (tmp_path / "states" / "step_5").exists()
    expected = torch.rand(1).item()
    made.model.model(torch.ones(1, 1)).sum().backward()
    made.optimizer.optimizer.step()
    made.lr_scheduler.step()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert made.model.model.weight.item() != 5
    states.check()
    assert states.written_seconds() is None
    disk.let.set()
    states.finish()
    assert states.written_seconds() is not None
    assert states.written_seconds() is None
    again = accelerator()
    resumed = states_of(tmp_path).load(again)
    assert (again.model.model.weight.item(), resumed.position, resumed.metrics) == (5, at(5), b'{"step": 1}\n')
    assert again.optimizer.optimizer.param_groups[0]["lr"] == 0.5
    assert torch.rand(1).item() == expected


def test_a_state_is_whole_before_the_next_one_begins(tmp_path: Path) -> None:
    states = states_of(tmp_path, keep=2, in_background=True)
    for step in (2, 9, 11):
        states.save(accelerator(step), at(step))
    states.finish()
    assert names(tmp_path) == ["step_11", "step_9"]
    assert load(tmp_path)[0] == 11


def test_a_state_that_is_waited_for_is_there(tmp_path: Path) -> None:
    states = states_of(tmp_path, in_background=True)
    states.save(accelerator(5), at(5))
    states.save(accelerator(6), at(6), wait=True)
    assert names(tmp_path) == ["step_6"]


def test_a_kill_while_a_state_is_written_leaves_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5)
    disk, states = SlowDisk(monkeypatch), states_of(tmp_path, in_background=True)
    states.save(accelerator(6), at(6))
    assert disk.reached.wait(60)
    killed = tmp_path / "as it was killed"
    shutil.copytree(tmp_path / "states", killed / "states")
    disk.let.set()
    states.finish()
    assert names(killed) == [".step_6", "step_5"]
    assert load(killed)[0] == 5


@pytest.mark.parametrize("ends", ["check", "finish", "save"])
def test_the_training_hears_of_a_state_that_could_not_be_written(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5)

    def write(*_: Any, **_rest: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_files, "write", write)
    states = states_of(tmp_path, in_background=True)
    states.save(accelerator(6), at(6))

    def check() -> None:
        while True:  # the time limit of a test ends it
            states.check()
            time.sleep(0.01)

    hears = {"check": check, "finish": states.finish, "save": lambda: states.save(accelerator(7), at(7))}
    with pytest.raises(StageError, match="the full state of step 6 can't be written") as caught:
        hears[ends]()
    assert "free space" in str(caught.value.fix)
    assert load(tmp_path)[0] == 5
