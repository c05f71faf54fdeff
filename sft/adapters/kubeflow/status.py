"""What there is to see of a TrainJob, in the words of who waits for it. Pure: the API's objects in, texts out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sft.adapters.kubeflow.manifest import CONTAINER, INDEX_LABEL

_NO_REASON_TO_WAIT = {"ContainerCreating", "PodInitializing"}
_SOON = {"CrashLoopBackOff"}
_LOST_WITH_THE_NODE = {"Evicted", "NodeLost", "Preempting", "Shutdown", "NodeShutdown", "Terminated"}


class State(Enum):
    """Where a TrainJob is, by its conditions."""

    waiting = "waiting"
    suspended = "suspended"
    complete = "complete"
    failed = "failed"


@dataclass(frozen=True)
class Condition:
    """What a TrainJob says of itself."""

    state: State
    message: str


def condition(job: Mapping[str, Any]) -> Condition:
    """The condition that counts: an end before a suspension."""
    true = {c["type"]: c for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"}
    for kind, state in {"Failed": State.failed, "Complete": State.complete, "Suspended": State.suspended}.items():
        if kind in true:
            said = true[kind].get("message") or true[kind].get("reason", "")
            return Condition(state, said)
    return Condition(State.waiting, "")


@dataclass(frozen=True)
class Stop:
    """How a container ended.

    Attributes:
        status: Its exit status.
        reason: The kubelet's: ``OOMKilled``, ``Error``.
    """

    status: int
    reason: str


@dataclass(frozen=True)
class Pod:
    """A pod, one node of the training.

    Attributes:
        node: Its index.
        name: Its own.
        phase: ``Pending``, ``Running``, ``Succeeded``, ``Failed``.
        restarts: How often its container was started again.
        waits_for: Why it does not run; empty where it does, or will at once.
        lost: Why the cluster took it away: ``Evicted``; empty where it didn't.
        stop: How its container ended, the last time that it did.
    """

    node: int
    name: str
    phase: str
    restarts: int
    waits_for: str
    lost: str
    stop: Stop | None

    @property
    def began(self) -> bool:
        """Whether its container has been started."""
        return self.phase != "Pending" or self.restarts > 0


def pods(objects: Iterable[Mapping[str, Any]]) -> list[Pod]:
    """The pods of the training, by node; of two with one index, the newer: the other is on its way out."""
    newest: dict[int, Mapping[str, Any]] = {}
    for pod in sorted(objects, key=lambda pod: str(pod["metadata"].get("creationTimestamp", ""))):
        newest[int(pod["metadata"].get("labels", {}).get(INDEX_LABEL, 0))] = pod
    return [_pod(node, newest[node]) for node in sorted(newest)]


def _pod(node: int, pod: Mapping[str, Any]) -> Pod:
    status = pod.get("status", {})
    statuses = status.get("containerStatuses", [])
    container: Mapping[str, Any] = next((c for c in statuses if c["name"] == CONTAINER), {})
    state, last = container.get("state", {}), container.get("lastState", {})
    ended = state.get("terminated") or last.get("terminated")
    reason = status.get("reason", "")
    disrupted = [c.get("reason", "") for c in status.get("conditions", []) if c["type"] == "DisruptionTarget"]
    return Pod(
        node=node,
        name=pod["metadata"]["name"],
        phase=status.get("phase", "Pending"),
        restarts=container.get("restartCount", 0),
        waits_for=_waits_for(status, state.get("waiting", {})),
        lost=disrupted[0] if disrupted else reason if reason in _LOST_WITH_THE_NODE else "",
        stop=Stop(ended["exitCode"], ended.get("reason", "")) if ended else None,
    )


def _waits_for(status: Mapping[str, Any], waiting: Mapping[str, Any]) -> str:
    if (reason := waiting.get("reason", "")) and reason not in _NO_REASON_TO_WAIT | _SOON:
        return ": ".join(part for part in (reason, waiting.get("message", "")) if part)
    for found in status.get("conditions", []):
        if found["type"] == "PodScheduled" and found["status"] == "False":
            return ": ".join(part for part in (found.get("reason", ""), found.get("message", "")) if part)
    return ""


def summary(found: Condition, have: Sequence[Pod], num_nodes: int) -> str:
    """One line of where a job that goes on is."""
    if found.state is State.suspended:
        return "suspended: a queue, or a person, lets it begin"
    running = sum(pod.phase == "Running" for pod in have)
    if running == num_nodes:
        return f"{running} pods run"
    waits = next((f"; node {pod.node} waits: {pod.waits_for}" for pod in have if pod.waits_for), "")
    return f"{running} of {num_nodes} pods run{waits}"


@dataclass(frozen=True)
class Event:
    """Something that was not normal, of the job, its jobs or its pods."""

    about: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def events(objects: Iterable[Mapping[str, Any]], job: str) -> list[Event]:
    """A job's own events, the oldest first. Whatever belongs to a job has a name that begins with the job's."""
    own = [event for event in objects if _is_of(event["involvedObject"].get("name", ""), job)]
    own.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return [
        Event(event["involvedObject"]["name"], event.get("reason", ""), " ".join(event.get("message", "").split()))
        for event in own
    ]


def _is_of(name: str, job: str) -> bool:
    return name == job or name.startswith(f"{job}-")


def new_lines(lines: Iterable[str], after: str) -> tuple[list[str], str]:
    """Lines of a log that are newer than a time, without their times; and the newest time.

    Args:
        lines: Each begins with its time, as RFC 3339 in UTC, and a space.
        after: Time of the last line that is known; empty = none is.
    """
    new, newest = [], after
    for line in lines:
        time, _, text = line.partition(" ")
        if _sortable(time) > _sortable(after):
            new.append(text)
            newest = time
    return new, newest


def _sortable(time: str) -> str:
    """A time whose order is that of its text: the kubelet leaves out zeros at the end of the nanoseconds."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}" if time else ""
