"""Owns why the pods of a TrainJob don't run, and whether anybody will mend it. Pure, as `status` is.

Pods say it themselves once they are there. Before that only events do: the trainer's, JobSet's, the Job controller's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft.adapters.kubeflow.status import Condition, Pod, State, plural

_NOISE = {"FailedToUpdateEndpointSlices", "FailedToUpdateEndpoint", "FailedToCreateEndpoint"}
_NOISE_WORDS = ("already exists", "the object has been modified", "StorageError: invalid object")
"""Controllers meet these and try again; they need nobody."""
_SECONDS = len("2026-01-01T00:00:00")
"""Of a time, those characters that every object's time has."""
_INVALID = re.compile(r"\bis invalid:|Invalid value|Unsupported value|Required value|field is immutable")
_UNMENDED = {
    r"ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull": (
        "set training.launcher.image to an image that the cluster can pull, and training.launcher.image_pull_secrets "
        "if it needs a login"
    ),
    r'persistentvolumeclaim "[^"]*" not found': "set training.launcher.pvc to a claim of the job's namespace",
    r"CreateContainerConfigError": "create the secret or its key, or change training.launcher.secrets",
    r'error looking up service account|serviceaccount "[^"]*" not found': (
        "create it (deploy/base/serviceaccount.yaml has the default), or set training.launcher.service_account"
    ),
}
"""What no queue, autoscaler or patience mends: how it is told, and what does."""


@dataclass(frozen=True)
class Event:
    """A warning about the job, its jobs or its pods."""

    about: str
    kind: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def events(objects: Iterable[Mapping[str, Any]], job: str, *, since: str = "") -> list[Event]:
    """Return a job's own events, the oldest first. What belongs to a job has a name that begins with the job's.

    Those that controllers mend by trying again are left out.

    Args:
        objects: The events of the namespace.
        job: Name of the job.
        since: When the job was created, as RFC 3339: events stay for an hour, and an earlier job had the same name.
    """
    own = [event for event in objects if _is_of(event["involvedObject"].get("name", ""), job)]
    own = [event for event in own if _last_seen(event)[:_SECONDS] >= since[:_SECONDS]]
    own.sort(key=_last_seen)
    read = [
        Event(
            about=event["involvedObject"]["name"],
            kind=event["involvedObject"].get("kind", ""),
            reason=event.get("reason", ""),
            message=" ".join(event.get("message", "").split()),
        )
        for event in own
    ]
    return [event for event in read if not _is_noise(event)]


def _last_seen(event: Mapping[str, Any]) -> str:
    """Return when an event happened the last time; newer recorders count repetitions in a series."""
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")


def _is_of(name: str, job: str) -> bool:
    return name == job or name.startswith(f"{job}-")


def _is_noise(event: Event) -> bool:
    return event.reason in _NOISE or any(words in event.message for words in _NOISE_WORDS)


def summary(condition: Condition, pods: Sequence[Pod], events: Sequence[Event], num_nodes: int) -> str:
    """Return one line about a job that has not ended.

    Args:
        condition: What the job says about itself.
        pods: Its pods.
        events: Its events, the oldest first.
        num_nodes: So many pods it is to have.
    """
    if condition.state is State.suspended:
        return "suspended until a queue or a person resumes it"
    running = sum(pod.phase == "Running" for pod in pods)
    if running == num_nodes:
        return f"{plural(running, 'pod')} running"
    waits = next((f"; {reason}" for reason in _reasons(pods, events, num_nodes)), "")
    return f"{running} of {plural(num_nodes, 'pod')} running{waits}"


def _reasons(pods: Sequence[Pod], events: Sequence[Event], num_nodes: int) -> list[str]:
    """Return why pods don't run, by node; why there are none, if some are missing."""
    reasons = [f"node {pod.node} waits: {pod.waits_for}" for pod in pods if pod.waits_for]
    said = _of_controllers(events) if len(pods) < num_nodes else None
    return reasons or ([f"no pod: {said}"] if said else [])


def _of_controllers(events: Sequence[Event]) -> Event | None:
    """Return the newest warning of those who make the pods."""
    return next((event for event in reversed(events) if event.kind != "Pod"), None)


@dataclass(frozen=True)
class Obstacle:
    """Something that keeps a job from running, and that somebody has to mend.

    Attributes:
        reason: What the cluster says.
        fix: What mends it.
        is_final: Whether it stays until the job is made anew.
    """

    reason: str
    fix: str
    is_final: bool


def obstacle(pods: Sequence[Pod], events: Sequence[Event], num_nodes: int) -> Obstacle | None:
    """Return what keeps the pods from running and will not go by itself; None = a place, a queue or nothing."""
    for reason in _reasons(pods, events, num_nodes):
        for pattern, fix in _UNMENDED.items():
            if re.search(pattern, reason):
                return Obstacle(reason, fix, is_final=False)
    said = _of_controllers(events)
    if said is not None and len(pods) < num_nodes and _INVALID.search(said.message):
        fix = "change what it names, in the recipe's training.launcher or in the ClusterTrainingRuntime"
        return Obstacle(f"no pod: {said}", fix, is_final=True)
    return None
