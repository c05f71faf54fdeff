"""Why a job's pods don't run, and whether anybody will mend it."""

from __future__ import annotations

from typing import Any

import pytest

from sft.adapters.kubeflow import status, waiting
from sft.adapters.kubeflow.status import Condition, State
from sft.adapters.kubeflow.waiting import Event
from tests.unit.adapters.kubeflow.test_status import pod

WAITING = Condition(State.waiting, "")
QUOTA = Event("run-node-0", "Job", "FailedCreate", 'Error creating: pods "a" is forbidden: exceeded quota: team')


def test_events_of_other_jobs_are_not_this_ones() -> None:
    objects = [
        {"involvedObject": {"name": name}, "reason": "R", "message": "a\nb", "lastTimestamp": time}
        for name, time in [("run-1-node-0-0-x", "2"), ("run-1", "1"), ("run-10", "3"), ("other", "4")]
    ]
    assert [event.about for event in waiting.events(objects, "run-1")] == ["run-1", "run-1-node-0-0-x"]
    assert str(waiting.events(objects, "run-1")[0]) == "R: a b"


def test_events_of_an_earlier_job_of_that_name_are_not_this_ones() -> None:
    created = "2026-01-01T00:10:00Z"
    times: list[dict[str, Any]] = [
        {"lastTimestamp": "2026-01-01T00:09:59Z"},
        {"lastTimestamp": created},
        {"lastTimestamp": None, "eventTime": "2026-01-01T00:09:59.999999Z"},
        {"lastTimestamp": None, "eventTime": "2026-01-01T00:10:00.000001Z"},
        {"eventTime": "2026-01-01T00:09:00.0Z", "series": {"lastObservedTime": "2026-01-01T00:11:00.5Z"}},
    ]
    objects = [{"involvedObject": {"name": "run"}, "reason": str(number), **time} for number, time in enumerate(times)]
    assert [event.reason for event in waiting.events(objects, "run", since=created)] == ["3", "1", "4"]


def test_a_waiting_job_is_summed_up_in_a_line() -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
    have = status.pods([pod(0, {"phase": "Running"}), pod(1, {"phase": "Pending", "conditions": [unscheduled]})])
    assert waiting.summary(WAITING, have, [], 2) == "1 of 2 pods running; node 1 waits: Unschedulable: no GPU"
    assert waiting.summary(WAITING, [], [], 2) == "0 of 2 pods running"


def test_a_job_without_pods_says_what_their_controller_says() -> None:
    line = waiting.summary(WAITING, [], [QUOTA], 2)
    assert line == f"0 of 2 pods running; no pod: {QUOTA}"
    there = status.pods([pod(0, {"phase": "Running"}), pod(1, {"phase": "Pending"})])
    assert waiting.summary(WAITING, there, [QUOTA], 2) == "1 of 2 pods running"


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service sft/run: not found"),
        ("FailedCreate", 'Error creating: jobs.batch "run-node-0" already exists'),
        ("JobCreationFailed", "Operation cannot be fulfilled: the object has been modified"),
    ],
)
def test_what_controllers_mend_by_trying_again_is_not_shown(reason: str, message: str) -> None:
    one: dict[str, Any] = {"involvedObject": {"name": "run", "kind": "JobSet"}, "reason": reason, "message": message}
    assert waiting.events([one], "run") == []


@pytest.mark.parametrize(
    ("message", "setting"),
    [
        ("ImagePullBackOff: Back-off pulling image", "training.launcher.image"),
        ('Unschedulable: persistentvolumeclaim "x" not found', "training.launcher.pvc"),
        ('CreateContainerConfigError: secret "x" not found', "training.launcher.secrets"),
    ],
)
def test_what_nobody_mends_names_the_setting(message: str, setting: str) -> None:
    reason, _, text = message.partition(": ")
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": reason, "message": text}
    found = waiting.obstacle(status.pods([pod(0, {"phase": "Pending", "conditions": [unscheduled]})]), [], 1)
    assert found is not None
    assert setting in found.fix
    assert not found.is_final


def test_a_service_account_that_is_not_there_is_named_before_there_is_a_pod() -> None:
    said = 'pods "run-0" is forbidden: error looking up service account sft/x: serviceaccount "x" not found'
    found = waiting.obstacle([], [Event("run-node-0", "Job", "FailedCreate", said)], 2)
    assert found is not None
    assert "training.launcher.service_account" in found.fix


def test_a_place_and_a_quota_are_waited_for() -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
    assert waiting.obstacle(status.pods([pod(0, {"phase": "Pending", "conditions": [unscheduled]})]), [], 1) is None
    assert waiting.obstacle([], [QUOTA], 2) is None


def test_an_invalid_specification_never_comes_right() -> None:
    said = 'job creation failed with error: Job.batch "run-node-0" is invalid: spec.template.spec.containers[0].name'
    found = waiting.obstacle([], [Event("run", "JobSet", "JobCreationFailed", said)], 2)
    assert found is not None
    assert found.is_final
