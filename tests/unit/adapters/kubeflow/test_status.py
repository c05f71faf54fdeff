"""What is read out of the API server's objects."""

from __future__ import annotations

from typing import Any

import pytest

from sft.adapters.kubeflow import status
from sft.adapters.kubeflow.status import State

INDEX = "batch.kubernetes.io/job-completion-index"


def job(**conditions: str) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": t, "status": s, "message": t.lower()} for t, s in conditions.items()]}}


def pod(node: int, status: dict[str, Any], created: str = "2026-01-01T00:00:00Z", name: str = "") -> dict[str, Any]:
    metadata = {"name": name or f"p{node}", "labels": {INDEX: str(node)}, "creationTimestamp": created}
    return {"metadata": metadata, "status": status}


@pytest.mark.parametrize(
    ("found", "state"),
    [
        ({}, State.waiting),
        (job(Suspended="False"), State.waiting),
        (job(Suspended="True"), State.suspended),
        (job(Suspended="False", Complete="True"), State.complete),
        (job(Failed="True", Suspended="True"), State.failed),
    ],
)
def test_a_condition_counts_when_it_is_true_and_an_end_counts_first(found: dict[str, Any], state: State) -> None:
    assert status.condition(found).state is state


def test_of_two_pods_of_a_node_the_newer_counts() -> None:
    objects = [
        pod(0, {"phase": "Running"}, "2026-01-01T00:00:09Z", "new"),
        pod(0, {"phase": "Running"}, "2026-01-01T00:00:01Z", "old"),
    ]
    assert [one.name for one in status.pods(objects)] == ["new"]


def test_of_two_pods_of_one_second_the_one_counts_that_stays() -> None:
    stays, goes = pod(0, {"phase": "Pending"}, name="a"), pod(0, {"phase": "Running"}, name="b")
    goes["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:30Z"
    for objects in ([stays, goes], [goes, stays]):
        assert [one.name for one in status.pods(objects)] == ["a"]


def test_a_pod_that_is_only_slow_to_begin_waits_for_nothing() -> None:
    creating = {"name": "node", "state": {"waiting": {"reason": "ContainerCreating"}}}
    [one] = status.pods([pod(0, {"phase": "Pending", "containerStatuses": [creating]})])
    assert one.waits_for == ""


def test_a_restarted_container_says_how_it_ended_the_last_time() -> None:
    again = {
        "name": "node",
        "restartCount": 2,
        "state": {"running": {}},
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    }
    sidecar = {"name": "istio-proxy", "restartCount": 9}
    [one] = status.pods([pod(1, {"phase": "Running", "containerStatuses": [sidecar, again]})])
    assert (one.restarts, one.last_exit) == (2, status.ContainerExit(137, "OOMKilled"))
    assert one.runs_again  # what it says of its end is in the log of the container before
    ended = again | {"state": again["lastState"]}
    [one] = status.pods([pod(1, {"phase": "Failed", "containerStatuses": [ended]})])
    assert not one.runs_again


def test_a_pod_that_was_taken_away_says_why() -> None:
    evicted = pod(0, {"phase": "Failed", "reason": "Evicted"})
    preempted = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    objects = [evicted, pod(1, {"phase": "Running", "conditions": [preempted]})]
    assert [one.lost for one in status.pods(objects)] == ["Evicted", "PreemptionByScheduler"]


def test_log_lines_come_once_whatever_zeros_their_times_leave_out() -> None:
    first = ["2026-01-01T00:00:01.5Z a", "2026-01-01T00:00:01.50000001Z b"]
    lines, newest = status.new_lines(first, "")
    assert lines == ["a", "b"]
    again, _ = status.new_lines([*first, "2026-01-01T00:00:01.6Z c d"], newest)
    assert again == ["c d"]
