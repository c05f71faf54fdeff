"""A run's TrainJob: found, or made, or taken away. It is found again by the key of what it makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from sft.adapters.instructlab.layout import FINISHED
from sft.adapters.instructlab.monitor import TrainingProgress
from sft.adapters.kubeflow import status
from sft.adapters.kubeflow.cluster import Cluster, Conflict, Unreachable
from sft.adapters.kubeflow.manifest import TrainJob, check, manifest
from sft.adapters.kubeflow.status import State
from sft.adapters.retry import RetryPolicy, retry
from sft.errors import StageError

POLL_SECONDS = 1.0
_RETRY = RetryPolicy(max_attempts=None, max_seconds=600.0, first_wait_seconds=0.5, longest_wait_seconds=15.0)
_CHECK_RETRY = replace(_RETRY, max_seconds=5.0)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Display:
    """Where what is seen goes.

    Attributes:
        watch: Takes the newest row of the metrics.
        update: Takes what is going on now.
        say: Takes a line that is worth keeping.
    """

    watch: Callable[[TrainingProgress], None]
    update: Callable[[str], None]
    say: Callable[[str], None]


def reach(cluster: Cluster, job: TrainJob) -> None:
    """Asks the cluster whether it would take such a job: token, rights, namespace, runtime, version of the trainer.

    Raises:
        StageError: It would not.
    """
    made = manifest(job)
    check(made)
    ask(lambda: cluster.create(made, dry_run=True), lambda _: None, _CHECK_RETRY)


def begin(cluster: Cluster, job: TrainJob, *, logs: Path, prepare: Callable[[], None], display: Display) -> str:
    """The name of the job at work: one that an earlier process began, else a new one.

    Args:
        cluster: Where it is.
        job: What is asked.
        logs: Of the run, on the shared volume.
        prepare: Called before a new job is made: nobody else writes into the run's folder then.
        display: Where what is seen goes.

    Raises:
        StageError: The cluster refuses it, or can't be reached.
    """
    found = ask(lambda: cluster.find(job.key), display.update)
    if found is not None:
        name, state = str(found["metadata"]["name"]), status.condition(found).state
        is_over = state is State.failed or (state is State.complete and not (logs / FINISHED).exists())
        if not is_over and "deletionTimestamp" not in found["metadata"]:
            display.say(f"  goes on with TrainJob {name} in namespace {cluster.namespace}")
            return name
        remove(cluster, job.key, name, display)
    prepare()
    made = manifest(job)
    check(made)
    try:
        ask(lambda: cluster.create(made), display.update)
    except Conflict as error:  # an answer was lost on its way, or the name is another's
        if ask(lambda: cluster.find(job.key), display.update) is None:
            fix = f"kubectl delete trainjob {job.name} -n {cluster.namespace}, if it is not needed"
            raise StageError(f"there is a TrainJob {job.name} that is not this run's", fix=fix) from error
    display.say(f"  TrainJob {job.name} in namespace {cluster.namespace}: {job.num_nodes} pods of {job.image}")
    return job.name


def remove(cluster: Cluster, key: str, name: str, display: Display) -> None:
    """Ends a job and waits until none of its pods writes any more, and its name is free.

    Raises:
        StageError: The cluster refuses it, or can't be reached.
    """
    ask(lambda: cluster.delete(name), display.update)
    while True:
        left = ask(lambda: cluster.pods(name), display.update)
        found = ask(lambda: cluster.find(key), display.update)
        if not left and (found is None or found["metadata"]["name"] != name):
            return
        display.update(f"waits for TrainJob {name} to end: {len(left)} pods")
        time.sleep(POLL_SECONDS)


def ask(request: Callable[[], T], update: Callable[[str], None], policy: RetryPolicy = _RETRY) -> T:
    """Return the API server's answer; ask again while it gives none.

    Args:
        request: What is asked.
        update: Told why it is asked again.
        policy: How long.

    Raises:
        Unreachable: It gave none for too long.
    """
    return retry(request, policy, on=Unreachable, before_pause=lambda error: update(f"{error.args[0]}; asking again"))
