"""Owns why a TrainJob failed: the node itself says it best, then the kubelet, then the last lines of the log."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from sft.adapters.instructlab.monitor import RankLost
from sft.adapters.instructlab.pod_entrypoint import NodeExit, NodeReport
from sft.adapters.kubeflow.manifest import JOBSET_LABEL
from sft.adapters.kubeflow.status import Condition, Pod
from sft.adapters.kubeflow.waiting import Event
from sft.errors import StageError

_SHOWN_LINES = 15
_KILLED = {128 + signal.SIGKILL, 128 + signal.SIGTERM}
"""Exit statuses of a container that somebody else ended."""
_TOO_MANY = "BackoffLimitExceeded"
_AGAIN = "repeat the command, which resumes from the last full state; training.max_restarts=N does so by itself"
_MORE_MEMORY = "raise training.launcher.memory, lower training.max_tokens_per_gpu, or use more workers with full_shard"


def explain(
    name: str,
    state: Condition,
    pods: Sequence[Pod],
    *,
    exits: Sequence[NodeReport],
    events: Sequence[Event],
    last_lines: Callable[[Pod], Sequence[str]],
    logs: Path,
) -> StageError:
    """Return the error of a job that failed; a `RankLost` if it may succeed the next time.

    Args:
        name: Name of the job.
        state: What the job says about itself.
        pods: Its pods.
        exits: How nodes say that they ended, in the order of time.
        events: The job's events, the oldest first.
        last_lines: Returns a pod's log.
        logs: The run's folder for logs.
    """
    if state.reason == "DeadlineExceeded":
        fix = "raise training.launcher.deadline_seconds; the same command resumes from the last full state"
        return StageError(f"TrainJob {name} had no more time: {state.message}", fix=fix)
    oom = next((pod for pod in pods if pod.last_exit and pod.last_exit.reason == "OOMKilled"), None)
    if oom is not None:
        message = f"TrainJob {name}: node {oom.node} used more than its memory (OOMKilled)"
        return RankLost(message + _because(events, oom), fix=_MORE_MEMORY, log=_log(logs, oom.node))
    own = next((end for end in exits if end.exit is NodeExit.failed), None)
    if own is not None:
        return StageError(f"TrainJob {name}, node {own.node}: {own.message}", fix=own.fix, log=_log(logs, own.node))
    lost = next((pod for pod in pods if pod.lost), None)
    if lost is not None:
        message = f"TrainJob {name}: the cluster removed node {lost.node} ({lost.lost})"
        return RankLost(message + _because(events, lost), fix=_AGAIN, log=_log(logs, lost.node))
    for end in exits:
        if end.exit is NodeExit.lost:
            return _ended(name, end, logs)
    dead = next((pod for pod in pods if pod.last_exit and pod.last_exit.status), None)
    if dead is not None and dead.last_exit is not None:
        lines = "".join(f"\n    {line.rstrip()}" for line in last_lines(dead)[-_SHOWN_LINES:])
        output = f"its last lines:{lines}" if lines else "it printed nothing"
        message = f"TrainJob {name}: node {dead.node} ended with status {dead.last_exit.status}; {output}"
        message, log = message + _because(events, dead), _log(logs, dead.node)
        if dead.last_exit.status in _KILLED:
            return RankLost(message, fix=_AGAIN, log=log)
        return StageError(message, log=log)
    if exits:  # nodes that were told to stop, as what is left of a job that failed
        return _ended(name, exits[0], logs)
    what = f"TrainJob {name} failed: {state.message or 'it gives no reason'}"
    what += "".join(f"\n    {event.about}: {event}" for event in events[-3:])
    if any(event.reason == _TOO_MANY for event in events):  # of its pods, which said nothing of an error
        return RankLost(what, fix=_AGAIN)
    return StageError(what, fix=f"see what it says: kubectl describe trainjob,jobset,job -l {JOBSET_LABEL}={name}")


def _ended(name: str, end: NodeReport, logs: Path) -> RankLost:
    message = f"TrainJob {name}, node {end.node}: {end.message}"
    return RankLost(message, fix=end.fix or _AGAIN, log=_log(logs, end.node))


def _because(events: Sequence[Event], pod: Pod) -> str:
    """Return the newest event of a pod, on a line of its own; empty if there is none."""
    event = next((event for event in reversed(events) if event.about == pod.name), None)
    return f"\n    {event}" if event else ""


def _log(logs: Path, node: int) -> Path | None:
    """Return the file with everything that a node's ranks have printed; None if there is none."""
    file = logs / (f"train_{node}.log" if node else "train.log")
    return file if file.is_file() else None
