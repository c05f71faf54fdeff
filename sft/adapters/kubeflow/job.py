"""A run's TrainJob: found, or made, or taken away. It is found again by the key of what it makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sft.adapters.instructlab.layout import FINISHED
from sft.adapters.instructlab.monitor import TrainingProgress
from sft.adapters.kubeflow import status
from sft.adapters.kubeflow.cluster import Cluster, Conflict, Unreachable
from sft.adapters.kubeflow.manifest import TrainJob, check, manifest
from sft.adapters.kubeflow.status import State
from sft.errors import StageError

POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 600.0
_FIRST_PATIENCE_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 15.0

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
    patiently(lambda: cluster.create(made, dry_run=True), lambda _: None, _FIRST_PATIENCE_SECONDS)


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
    found = patiently(lambda: cluster.find(job.key), display.update)
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
        patiently(lambda: cluster.create(made), display.update)
    except Conflict as error:  # an answer was lost on its way, or the name is another's
        if patiently(lambda: cluster.find(job.key), display.update) is None:
            fix = f"kubectl delete trainjob {job.name} -n {cluster.namespace}, if it is not needed"
            raise StageError(f"there is a TrainJob {job.name} that is not this run's", fix=fix) from error
    display.say(f"  TrainJob {job.name} in namespace {cluster.namespace}: {job.num_nodes} pods of {job.image}")
    return job.name


def remove(cluster: Cluster, key: str, name: str, display: Display) -> None:
    """Ends a job and waits until none of its pods writes any more, and its name is free.

    Raises:
        StageError: The cluster refuses it, or can't be reached.
    """
    patiently(lambda: cluster.delete(name), display.update)
    while True:
        left = patiently(lambda: cluster.pods(name), display.update)
        found = patiently(lambda: cluster.find(key), display.update)
        if not left and (found is None or found["metadata"]["name"] != name):
            return
        display.update(f"waits for TrainJob {name} to end: {len(left)} pods")
        time.sleep(POLL_SECONDS)


def patiently(ask: Callable[[], T], update: Callable[[str], None], patience_seconds: float = _PATIENCE_SECONDS) -> T:
    """What the API server answers, once it does.

    Raises:
        Unreachable: It doesn't for too long.
    """
    began, wait = time.monotonic(), 0.5
    while True:
        try:
            return ask()
        except Unreachable as error:
            if time.monotonic() - began > patience_seconds:
                raise
            update(f"{error.message}; asks again")
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
