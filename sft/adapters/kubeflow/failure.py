"""Why a TrainJob failed, in the words of whoever knows best: the node itself, else the kubelet, else the last lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sft.adapters.instructlab.monitor import RankLost
from sft.adapters.instructlab.pod_entrypoint import Ended, Verdict
from sft.adapters.kubeflow.status import Condition, Event, Pod
from sft.errors import StageError

_SHOWN_LINES = 15
_MORE_MEMORY = "more training.launcher.memory, a lower training.max_tokens_per_gpu, or more workers with full_shard"


def explain(
    name: str,
    state: Condition,
    pods: Sequence[Pod],
    *,
    ends: Sequence[Ended],
    events: Sequence[Event],
    last_lines: Callable[[Pod], Sequence[str]],
    logs: Path,
) -> StageError:
    """What to tell a person of a job that failed; a `RankLost` where it may go well the next time.

    Args:
        name: Of the job.
        state: What it says of itself.
        pods: Its pods.
        ends: How nodes say that they ended, the first first.
        events: The job's, the oldest first.
        last_lines: Gives a pod's log.
        logs: The run's folder for logs.
    """
    oom = next((pod for pod in pods if pod.stop and pod.stop.reason == "OOMKilled"), None)
    if oom is not None:
        message = f"TrainJob {name}: node {oom.node} had more than its memory (OOMKilled)"
        return RankLost(message + _because(events, oom), fix=_MORE_MEMORY, log=_log(logs, oom.node))
    own = next((end for end in ends if end.verdict is Verdict.failed), None)
    if own is not None:
        return StageError(f"TrainJob {name}, node {own.node}: {own.message}", fix=own.fix, log=_log(logs, own.node))
    taken = next((pod for pod in pods if pod.lost), None)
    if taken is not None:
        message = f"TrainJob {name}: the cluster took node {taken.node} away ({taken.lost})"
        return RankLost(message + _because(events, taken), fix="see training.max_restarts", log=_log(logs, taken.node))
    if ends:
        end = ends[0]
        return RankLost(f"TrainJob {name}, node {end.node}: {end.message}", fix=end.fix, log=_log(logs, end.node))
    dead = next((pod for pod in pods if pod.stop and pod.stop.status), None)
    if dead is not None and dead.stop is not None:
        lines = "".join(f"\n    {line.rstrip()}" for line in last_lines(dead)[-_SHOWN_LINES:])
        said = f"its last lines:{lines}" if lines else "it has printed nothing"
        message = f"TrainJob {name}: node {dead.node} ended with status {dead.stop.status}; {said}"
        return StageError(message + _because(events, dead), log=_log(logs, dead.node))
    what = f"TrainJob {name} failed: {state.message or 'it does not say why'}"
    return StageError(what + "".join(f"\n    {event.about}: {event}" for event in events[-3:]))


def _because(events: Sequence[Event], pod: Pod) -> str:
    """The newest event of a pod, on a line of its own."""
    event = next((event for event in reversed(events) if event.about == pod.name), None)
    return f"\n    {event}" if event else ""


def _log(logs: Path, node: int) -> Path | None:
    """Where the node's ranks have written all that they print."""
    file = logs / (f"train_{node}.log" if node else "train.log")
    return file if file.is_file() else None
