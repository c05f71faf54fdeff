"""Who is believed about a failed TrainJob: memory first, then the node itself, the cluster, and the last lines."""

from __future__ import annotations

from pathlib import Path

from sft.adapters.instructlab.monitor import RankLost
from sft.adapters.instructlab.pod_entrypoint import NodeExit, NodeReport
from sft.adapters.kubeflow.failure import explain
from sft.adapters.kubeflow.status import Condition, ContainerExit, Pod, State
from sft.adapters.kubeflow.waiting import Event
from sft.errors import StageError

NAN = NodeReport(0, NodeExit.failed, "the loss is nan at step 3", "a lower rate")
LOST = NodeReport(1, NodeExit.lost, "rank 1 was killed by SIGKILL", None)


def pod(node: int, last_exit: ContainerExit | None = None, lost: str = "") -> Pod:
    return Pod(node, f"run-node-0-{node}-x", "Running", 0, "", lost, last_exit)


def why(*pods: Pod, exits: tuple[NodeReport, ...] = (), events: tuple[Event, ...] = (), logs: Path) -> StageError:
    state = Condition(State.failed, "jobset failed")
    return explain("run", state, pods, exits=exits, events=events, last_lines=lambda _: ["one", "two"], logs=logs)


def test_a_nodes_own_error_is_the_message_with_its_fix_and_log(tmp_path: Path) -> None:
    (tmp_path / "train.log").touch()
    error = why(pod(0, ContainerExit(1, "Error")), pod(1, ContainerExit(69, "Error")), exits=(LOST, NAN), logs=tmp_path)
    assert error.message == "TrainJob run, node 0: the loss is nan at step 3"
    assert (error.fix, error.log) == ("a lower rate", tmp_path / "train.log")
    assert not isinstance(error, RankLost)


def test_a_lost_node_may_be_tried_again(tmp_path: Path) -> None:
    error = why(pod(0, ContainerExit(69, "Error")), exits=(LOST,), logs=tmp_path)
    assert isinstance(error, RankLost)
    assert error.message == "TrainJob run, node 1: rank 1 was killed by SIGKILL"


def test_memory_explains_the_other_nodes_ends(tmp_path: Path) -> None:
    error = why(
        pod(0, ContainerExit(69, "Error")), pod(1, ContainerExit(137, "OOMKilled")), exits=(LOST,), logs=tmp_path
    )
    assert "node 1 used more than its memory (OOMKilled)" in error.message


def test_a_pod_that_was_taken_away_comes_with_the_event(tmp_path: Path) -> None:
    event = Event("run-node-0-1-x", "Pod", "Evicted", "The node was low on resource: memory.")
    error = why(pod(0), pod(1, lost="Evicted"), events=(event,), logs=tmp_path)
    assert isinstance(error, RankLost)
    assert error.message == (
        "TrainJob run: the cluster removed node 1 (Evicted)\n    Evicted: The node was low on resource: memory."
    )


def test_what_said_nothing_is_shown_by_its_last_lines(tmp_path: Path) -> None:
    error = why(pod(0, ContainerExit(127, "StartError")), logs=tmp_path)
    assert error.message == "TrainJob run: node 0 ended with status 127; its last lines:\n    one\n    two"


def test_without_a_pod_the_job_speaks_for_itself(tmp_path: Path) -> None:
    event = Event("run", "Pod", "FailedCreate", "exceeded quota")
    error = why(events=(event,), logs=tmp_path)
    assert error.message == "TrainJob run failed: jobset failed\n    run: FailedCreate: exceeded quota"
