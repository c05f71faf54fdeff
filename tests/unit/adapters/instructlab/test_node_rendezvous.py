"""Nodes that find together on a volume: all, and only those that begin at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sft.adapters.instructlab import node_rendezvous
from sft.adapters.instructlab.monitor import RankLost
from sft.adapters.instructlab.node_rendezvous import NodeRendezvous


class Gone(Exception):
    """Ends a wait."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_rendezvous, "_POLL_SECONDS", 0.01)


def meet(*nodes: NodeRendezvous) -> list[list[str]]:
    """All wait at once; what each was told."""
    told: list[list[str]] = [[] for _ in nodes]
    threads = [
        threading.Thread(target=node.wait, args=(lambda: None, told[place].append, lambda: None))
        for place, node in enumerate(nodes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    return told


@contextmanager
def waiting(node: NodeRendezvous) -> Iterator[None]:
    """A node that is ready, and is let into no group while the block lasts."""
    looked, over = threading.Event(), threading.Event()
    ends: list[str] = []

    def look() -> None:
        looked.set()
        if over.is_set():
            raise Gone

    def wait() -> None:
        try:
            node.wait(look, lambda _: None, lambda: None)
            ends.append("let in")
        except Gone:
            ends.append("gone")

    thread = threading.Thread(target=wait)
    thread.start()
    assert looked.wait(10)
    yield
    over.set()
    thread.join(10)
    assert ends == ["gone"]


def group(folder: Path, num: int) -> list[NodeRendezvous]:
    return [NodeRendezvous(folder, node, num) for node in range(num)]


def test_all_nodes_begin_together(tmp_path: Path) -> None:
    nodes = group(tmp_path, 3)
    meet(*nodes)
    for node in nodes:
        node.check()


def test_node_0_says_for_whom_it_waits(tmp_path: Path) -> None:
    said: list[str] = []
    looks = iter(range(3))

    def look() -> None:
        if next(looks, None) is None:
            raise Gone

    with pytest.raises(Gone):
        NodeRendezvous(tmp_path, 0, 3).wait(look, said.append, lambda: None)
    assert said == ["waiting for nodes 1, 2"]


def test_notes_are_cleared_when_all_are_ready_and_before_any_begins(tmp_path: Path) -> None:
    first, second = group(tmp_path, 2)
    begun = threading.Event()
    thread = threading.Thread(target=lambda: (second.wait(lambda: None, lambda _: None, lambda: None), begun.set()))
    thread.start()
    cleared: list[bool] = []
    first.wait(lambda: None, lambda _: None, lambda: cleared.append(begun.is_set()))
    thread.join(10)
    assert cleared == [False]


def test_a_node_that_begins_again_ends_the_group_it_was_in(tmp_path: Path) -> None:
    first, second = group(tmp_path, 2)
    meet(first, second)
    with (
        waiting(NodeRendezvous(tmp_path, 1, 2)),
        pytest.raises(RankLost, match="node 1 was lost, or has lost the others"),
    ):
        first.check()
    meet(NodeRendezvous(tmp_path, 0, 2), NodeRendezvous(tmp_path, 1, 2))


def test_a_first_node_that_begins_again_ends_the_group_it_was_in(tmp_path: Path) -> None:
    first, second = group(tmp_path, 2)
    meet(first, second)
    with waiting(NodeRendezvous(tmp_path, 0, 2)), pytest.raises(RankLost, match="node 0 was lost"):
        second.check()


def test_nodes_that_have_lost_one_meet_again_with_its_successor(tmp_path: Path) -> None:
    first, second, third = group(tmp_path, 3)
    meet(first, second, third)
    successor = NodeRendezvous(tmp_path, 1, 3)
    meet(first, successor, third)
    for node in (first, successor, third):
        node.check()
    with waiting(second), pytest.raises(RankLost):
        first.check()


def test_many_nodes_that_are_missing_are_counted(tmp_path: Path) -> None:
    said: list[str] = []

    def look() -> None:
        raise Gone

    with pytest.raises(Gone):
        NodeRendezvous(tmp_path, 0, 64).wait(look, said.append, lambda: None)
    assert said == ["waiting for nodes 1, 2, 3, 4, 5, 6, 7, 8 and 55 more"]


def test_a_group_that_saves_its_state_is_left_to_it(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    first, second = group(logs, 2)
    meet(first, second)
    (logs / "stop").touch()
    with waiting(NodeRendezvous(logs, 1, 2)):
        first.check()
        (logs / "stopped.json").touch()
        with pytest.raises(RankLost):
            first.check()


def test_a_single_node_waits_for_the_state_that_its_forerunner_saves(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "stop").touch()
    saved = threading.Timer(0.2, (logs / "stopped.json").touch)
    saved.start()
    order: list[Callable[[], bool]] = []
    NodeRendezvous(logs, 0, 1).wait(lambda: None, lambda _: None, lambda: order.append((logs / "stopped.json").exists))
    assert [check() for check in order] == [True]
