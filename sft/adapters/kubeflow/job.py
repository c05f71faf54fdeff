"""Owns finding, creating and deleting a run's TrainJob. A later process finds it by the key of its result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from sft.adapters.instructlab.layout import FINISHED
from sft.adapters.instructlab.monitor import TrainingProgress
from sft.adapters.kubeflow import status
from sft.adapters.kubeflow.cluster import Cluster, Conflict, NotAllowed, Right, Unreachable
from sft.adapters.kubeflow.manifest import TrainJob, check, manifest
from sft.adapters.kubeflow.status import State, plural
from sft.adapters.retry import RetryPolicy, retry
from sft.errors import StageError

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
_DELETION_SECONDS = 900.0
"""Longer than pods may take to save their state when they are asked to stop."""
_RETRY = RetryPolicy(max_attempts=None, max_seconds=600.0, first_wait_seconds=0.5, longest_wait_seconds=15.0)
_CHECK_RETRY = replace(_RETRY, max_seconds=5.0)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class JobDisplay:
    """Shows a job to a person.

    Attributes:
        watch: Shows the newest row of the metrics.
        update: Shows what happens now, in place of what it has shown before.
        say: Prints a line that stays.
    """

    watch: Callable[[TrainingProgress], None]
    update: Callable[[str], None]
    say: Callable[[str], None]


def check_access(cluster: Cluster, job: TrainJob, say: Callable[[str], None]) -> None:
    """Check that the cluster would accept such a job: token, permissions, namespace, runtime, version of the trainer.

    Args:
        cluster: The cluster.
        job: The job.
        say: Prints what will not be shown, for want of a right.

    Raises:
        StageError: It would not.
    """
    content = manifest(job)
    check(content)
    missing = ask(cluster.missing_rights, lambda _: None, _CHECK_RETRY) or []
    if needed := [_spelled(right) for right, is_needed in missing if is_needed]:
        raise StageError(
            f"not allowed in namespace {cluster.namespace}: {', '.join(needed)}",
            fix="grant the permissions of deploy/base/rbac.yaml",
        )
    if missing:
        rights = ", ".join(_spelled(right) for right, _ in missing)
        say(
            f"- not allowed in namespace {cluster.namespace}: {rights}; the training goes without, "
            "and less of it is shown (deploy/base/rbac.yaml has the rights)"
        )
    ask(lambda: cluster.create(content, dry_run=True), lambda _: None, _CHECK_RETRY)


def find_or_create(
    cluster: Cluster, job: TrainJob, *, logs: Path, prepare: Callable[[], None], display: JobDisplay
) -> str:
    """Return the name of a job that an earlier process created and that still trains, else create one.

    Args:
        cluster: The cluster.
        job: The job.
        logs: The run's folder for logs, on the shared volume.
        prepare: Called before a job is created: nobody else writes into the run's folder then.
        display: Shows what happens.

    Raises:
        StageError: The cluster refuses the job, or can't be reached.
    """
    existing = ask(lambda: cluster.find(job.key, job.place), display.update)
    if existing is not None:
        name, state = str(existing["metadata"]["name"]), status.condition(existing).state
        is_over = state is State.failed or (state is State.complete and not (logs / FINISHED).exists())
        if not is_over and "deletionTimestamp" not in existing["metadata"]:
            display.say(f"  resumes TrainJob {name} in namespace {cluster.namespace}")
            return name
        delete(cluster, job, name, display)
    prepare()
    content = manifest(job)
    check(content)
    try:
        ask(lambda: cluster.create(content), display.update)
    except Conflict as error:  # the answer to our request was lost, or another run has this name
        if ask(lambda: cluster.find(job.key, job.place), display.update) is None:
            fix = f"run `kubectl delete trainjob {job.name} -n {cluster.namespace}` if nobody needs it"
            raise StageError(f"there is a TrainJob {job.name} of another run", fix=fix) from error
    display.say(
        f"  TrainJob {job.name} in namespace {cluster.namespace}: {plural(job.num_nodes, 'pod')} of {job.image}"
    )
    return job.name


def delete(cluster: Cluster, job: TrainJob, name: str, display: JobDisplay) -> None:
    """Delete a job, and wait until none of its pods writes any more and its name is free.

    Raises:
        StageError: The cluster refuses it, can't be reached, or leaves pods behind.
    """
    ask(lambda: cluster.delete(name), display.update)
    deadline = time.monotonic() + _DELETION_SECONDS
    while True:
        left = _left(cluster, job, name, display)
        if not left:
            return
        if time.monotonic() > deadline:
            raise StageError(
                f"TrainJob {name} was deleted {_DELETION_SECONDS / 60:.0f} minutes ago, and there is still {left}",
                fix=f"see what holds it: kubectl describe trainjob,jobset {name} -n {cluster.namespace}",
            )
        display.update(f"waiting for TrainJob {name} to end: {left} left")
        time.sleep(POLL_SECONDS)


def _left(cluster: Cluster, job: TrainJob, name: str, display: JobDisplay) -> str:
    """Return what there is of a job that was deleted, in words; empty if nothing."""
    existing = ask(lambda: cluster.find(job.key, job.place), display.update)
    if existing is not None and existing["metadata"]["name"] == name:
        return "the TrainJob"
    try:
        if ask(lambda: cluster.has_jobset(name), display.update):  # it would make the pods anew
            return "its JobSet"
    except NotAllowed:
        log.info("may not ask for the JobSet of %s: only its pods are waited for", name)
    pods = ask(lambda: cluster.pods(name), display.update)
    return plural(len(pods), "pod") if pods else ""


def _spelled(right: Right) -> str:
    verb, resource, group = right
    return f"{verb} {resource}{f'.{group}' if group else ''}"


def ask(request: Callable[[], T], update: Callable[[str], None], policy: RetryPolicy = _RETRY) -> T:
    """Return the API server's answer; ask again while it gives none.

    Args:
        request: Asks the API server.
        update: Shows why it is asked again.
        policy: How long to ask.

    Raises:
        Unreachable: It gave no answer for too long.
    """
    return retry(request, policy, on=Unreachable, before_pause=lambda error: update(f"{error.args[0]}; asking again"))
