"""Owns reading what the API server says about a TrainJob. Pure: the API's objects in, facts and texts out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sft.adapters.kubeflow.manifest import CONTAINER, INDEX_LABEL

_NO_REASON_TO_WAIT = {"ContainerCreating", "PodInitializing"}
_ABOUT_TO_RUN = {"CrashLoopBackOff"}
_LOST_WITH_THE_NODE = {"Evicted", "NodeLost", "Preempting", "Shutdown", "NodeShutdown", "Terminated"}


class State(Enum):
    """The state of a TrainJob, by its conditions."""

    waiting = "waiting"
    suspended = "suspended"
    complete = "complete"
    failed = "failed"


@dataclass(frozen=True)
class Condition:
    """What a TrainJob says about itself."""

    state: State
    message: str
    reason: str = ""


def condition(job: Mapping[str, Any]) -> Condition:
    """Return the condition that counts: an end before a suspension."""
    true = {c["type"]: c for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"}
    for kind, state in {"Failed": State.failed, "Complete": State.complete, "Suspended": State.suspended}.items():
        if kind in true:
            message = true[kind].get("message") or true[kind].get("reason", "")
            return Condition(state, message, true[kind].get("reason", ""))
    return Condition(State.waiting, "")


@dataclass(frozen=True)
class ContainerExit:
    """How a container ended.

    Attributes:
        status: Its exit status.
        reason: The kubelet's reason: ``OOMKilled``, ``Error``.
    """

    status: int
    reason: str


@dataclass(frozen=True)
class Pod:
    """A pod, one node of the training.

    Attributes:
        node: Index of the node.
        name: Name of the pod.
        phase: ``Pending``, ``Running``, ``Succeeded``, ``Failed``.
        restarts: How often its container was started again.
        waits_for: Why it does not run; empty if it does, or is about to.
        lost: Why the cluster removed it: ``Evicted``; empty if it didn't.
        last_exit: How its container ended, the last time that it did.
        runs_again: Whether that was an earlier container, whose log is the previous one.
    """

    node: int
    name: str
    phase: str
    restarts: int
    waits_for: str
    lost: str
    last_exit: ContainerExit | None
    runs_again: bool = False

    @property
    def has_started(self) -> bool:
        """Return whether its container has been started."""
        return self.phase != "Pending" or self.restarts > 0


def pods(objects: Iterable[Mapping[str, Any]]) -> list[Pod]:
    """Return the pods of the training, by node; of two with one index the newer one, because the other is ending.

    Times have whole seconds: of two pods of one second, the one that is being deleted is the older one.
    """
    newest: dict[int, Mapping[str, Any]] = {}
    for pod in sorted(objects, key=_age):
        newest[int(pod["metadata"].get("labels", {}).get(INDEX_LABEL, 0))] = pod
    return [_pod(node, newest[node]) for node in sorted(newest)]


def _age(pod: Mapping[str, Any]) -> tuple[str, bool]:
    metadata = pod["metadata"]
    return str(metadata.get("creationTimestamp", "")), "deletionTimestamp" not in metadata


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
        last_exit=ContainerExit(ended["exitCode"], ended.get("reason", "")) if ended else None,
        runs_again=ended is not None and not state.get("terminated"),
    )


def _waits_for(status: Mapping[str, Any], waiting: Mapping[str, Any]) -> str:
    if (reason := waiting.get("reason", "")) and reason not in _NO_REASON_TO_WAIT | _ABOUT_TO_RUN:
        return ": ".join(part for part in (reason, waiting.get("message", "")) if part)
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return ": ".join(part for part in (condition.get("reason", ""), condition.get("message", "")) if part)
    return ""


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 pod``, ``2 pods``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def new_lines(lines: Iterable[str], after: str) -> tuple[list[str], str]:
    """Return the lines of a log that are newer than a time, without their times, and the newest time.

    Args:
        lines: Each begins with its time, as RFC 3339 in UTC, and a space.
        after: Time of the last line that was read; empty = none was.
    """
    new, newest = [], after
    for line in lines:
        time, _, text = line.partition(" ")
        if _sortable(time) > _sortable(after):
            new.append(text)
            newest = time
    return new, newest


def _sortable(time: str) -> str:
    """Return a time as a text that sorts by time: the kubelet omits zeros at the end of the nanoseconds."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}" if time else ""
