"""Every end that a pod can have, with 2 and with 8 nodes: it counts once, and all go on to the end of the training.

The ranks only count here (`tests.support.counting_pod`); `tests/e2e/test_trainjob.py` compares weights.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("kubernetes")
from sft.adapters.instructlab.monitor import RankLost
from sft.adapters.kubeflow import job
from sft.adapters.kubeflow.manifest import TrainJob
from sft.errors import StageError
from tests.servers.kubernetes import KubernetesServer
from tests.servers.kubernetes.controller import Controller
from tests.servers.kubernetes.pods import Pod
from tests.servers.kubernetes.server import wait_until
from tests.support.cluster import ROLE, contracts
from tests.support.counting_pod import DIES, HANG, STATE, STEPS, save
from tests.support.trainjobs import Seen, asked, stay

pytestmark = pytest.mark.slow

End = Callable[[Controller, str, int], None]
ENDS: dict[str, End] = {
    "killed": lambda there, name, node: there.kill(name, node, "Error"),
    "evicted": lambda there, name, node: there.preempt(name, node),
    "its machine lost": lambda there, name, node: there.lose_node(name, node),
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesServer]:
    monkeypatch.setattr(job, "POLL_SECONDS", 0.05)
    monkeypatch.setattr("sft.adapters.kubeflow.watch.POLL_SECONDS", 0.05)
    with KubernetesServer(contracts(), ROLE, volumes={"sft-workspace": tmp_path}, home=tmp_path) as one:
        for name, value in one.environment.items():
            monkeypatch.setenv(name, value)
        yield one


@pytest.fixture
def seen() -> Seen:
    return Seen()


def counting(folder: Path, num_nodes: int) -> TrainJob:
    save(folder, num_nodes)
    command = ("python", "-m", "tests.support.counting_pod", str(folder))
    return asked(folder, "", command=command, num_nodes=num_nodes)


def step(folder: Path) -> int:
    file = folder / STATE
    return int(json.loads(file.read_text())["step"]) if file.exists() else 0


def begun(folder: Path, num_nodes: int) -> bool:
    return len(list((folder / "alive").glob("*.json"))) == num_nodes


def when(condition: Callable[[], bool], then: Callable[[], object]) -> threading.Thread:
    """Does something to the cluster once something is so."""
    thread = threading.Thread(target=lambda: (wait_until(condition), then()))
    thread.start()
    return thread


@pytest.mark.long
@pytest.mark.parametrize(
    ("end", "num_nodes", "node"),
    [
        ("killed", 2, 0),
        ("killed", 8, 5),
        ("evicted", 2, 1),
        ("evicted", 8, 0),
        ("its machine lost", 2, 0),
        ("its machine lost", 8, 5),
    ],
)
def test_a_pod_that_ends_counts_once_and_the_others_wait_for_it_in_theirs(
    end: str, num_nodes: int, node: int, server: KubernetesServer, tmp_path: Path
) -> None:
    wanted, seen = counting(tmp_path, num_nodes), Seen()
    server.faults.backoff_limit = 1
    ending = when(
        lambda: begun(tmp_path, num_nodes) and step(tmp_path) >= 3,
        lambda: ENDS[end](server.controller, wanted.name, node),
    )
    stay(wanted, tmp_path, seen)
    ending.join()
    assert step(tmp_path) == STEPS
    [one] = server.jobs().values()
    assert one.num_ends == 1, seen.text
    assert sum(pod.restarts for pod in one.pods) == (1 if end == "killed" else 0), seen.text
    assert "all nodes begin anew from the last full state" in seen.text


@pytest.mark.long
@pytest.mark.parametrize("at", ["before all are there", "at the last step", "after the end"])
def test_the_moment_of_an_end_does_not_matter(at: str, server: KubernetesServer, tmp_path: Path, seen: Seen) -> None:
    wanted = counting(tmp_path, 2)
    if at == "before all are there":
        server.faults.unschedulable[1] = "there is no place"
    moments = {
        "before all are there": lambda: (tmp_path / "gather" / "node_0.json").exists(),
        "at the last step": lambda: step(tmp_path) == STEPS,
        "after the end": (tmp_path / "finished.json").exists,
    }

    def kill() -> None:
        server.faults.unschedulable.clear()
        running = [pod for pod in server.jobs()[wanted.name].pods if pod.object["status"]["phase"] == "Running"]
        if running:
            server.controller.kill(wanted.name, running[-1].node, "Error")

    ending = when(moments[at], kill)
    stay(wanted, tmp_path, seen)
    ending.join()
    assert step(tmp_path) == STEPS


def test_all_pods_of_a_jobset_that_is_deleted_save_and_go_on_in_the_next(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    wanted = counting(tmp_path, 2)
    old: list[Pod] = []

    def delete() -> None:
        old.extend(sorted(server.jobs()[wanted.name].pods, key=lambda pod: pod.node))
        server.controller.delete_jobset(wanted.name)

    ending = when(lambda: step(tmp_path) >= 3, delete)
    stay(wanted, tmp_path, seen)
    ending.join()
    assert step(tmp_path) == STEPS
    said = [pod.log(previous=False, since=None, tail=None) or "" for pod in old]
    assert [pod.ended() for pod in old] == [75, 75], said
    assert "full state is saved" in said[0]
    # A next node 0 may have begun, and removed the note, before a slow node 1 has read it.
    assert re.search("full state is saved|known whether the state is saved", said[1]), said


def test_a_rank_that_is_killed_in_a_pod_ends_that_pod_alone(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    wanted = counting(tmp_path, 8)

    def kill() -> None:
        (tmp_path / DIES).mkdir()
        (tmp_path / DIES / "6").touch()

    ending = when(lambda: step(tmp_path) >= 3, kill)
    stay(wanted, tmp_path, seen)
    ending.join()
    assert step(tmp_path) == STEPS
    [one] = server.jobs().values()
    assert [pod.restarts for pod in one.pods] == [0, 0, 0, 0, 0, 0, 1, 0], seen.text
    assert "node 6: restarted after status 69" in seen.text


def test_nodes_that_lose_each_other_again_and_again_end_with_the_reason_and_a_remedy(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    wanted = counting(tmp_path, 2)
    server.faults.backoff_limit = 0
    (tmp_path / HANG).touch()
    with pytest.raises(RankLost, match=r"node \d: training failed: DistBackendError: x") as caught:
        stay(wanted, tmp_path, seen)
    assert "training.max_restarts" in str(caught.value.fix)
    assert 5 <= seen.text.count("all nodes begin anew") <= 10


def test_more_ends_than_a_job_bears_are_said_with_a_remedy(
    server: KubernetesServer, tmp_path: Path, seen: Seen
) -> None:
    wanted = counting(tmp_path, 2)
    server.faults.backoff_limit = 0
    ending = when(lambda: step(tmp_path) >= 3, lambda: server.controller.kill(wanted.name, 1, "Error"))
    with pytest.raises(StageError) as caught:
        stay(wanted, tmp_path, seen)
    ending.join()
    assert isinstance(caught.value, RankLost), caught.value
    assert "node 1 ended with status 137" in caught.value.message
    assert "training.max_restarts" in str(caught.value.fix)
