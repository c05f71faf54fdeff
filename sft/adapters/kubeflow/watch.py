"""Owns following a TrainJob until it ends, and showing what it does.

The job belongs to the cluster and trains on without this process. Only an error that would come again, a second Ctrl-C
and `training.launcher.start_timeout_seconds` delete it.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from sft.adapters.instructlab import pod_entrypoint
from sft.adapters.instructlab.layout import FINISHED, RESUMED
from sft.adapters.instructlab.monitor import TrainingMonitor
from sft.adapters.instructlab.pod_entrypoint import NodeExit
from sft.adapters.kubeflow import status, waiting
from sft.adapters.kubeflow.cluster import Cluster, NotAllowed, TokenRefused, Unreachable
from sft.adapters.kubeflow.failure import explain
from sft.adapters.kubeflow.job import POLL_SECONDS, JobDisplay, ask, delete
from sft.adapters.kubeflow.manifest import TrainJob
from sft.adapters.kubeflow.status import Pod, State
from sft.errors import Preempted, StageError

_EVENTS_SECONDS = 5.0
_SECOND_CTRL_C_SECONDS = 10.0
_LOGS_PER_POLL = 4
_UNREAD_SECONDS = 60.0
"""How long a log is left alone that could not be read: its machine may be lost, and each attempt waits for it."""
_OVERLAP_SECONDS = 5
_MENDED_SECONDS = 600.0
"""How long what nobody mends, such as an image that is not there, is waited for."""
_VOLUME_SECONDS = 60.0
"""How long a file that a pod wrote may take to appear here: clients of NFS look again after that."""

_HOPELESS = {1, 2, 126, 127, 128}
"""Exit statuses of a container that could not even start; a node that starts ends with a `NodeExit`."""


class JobWatcher:
    """Follows a job until it ends.

    Args:
        cluster: The cluster.
        job: The job as it was requested.
        name: Name of the job on the cluster.
        logs: The run's folder for logs, on the shared volume.
        start_timeout_seconds: Seconds after which all pods must have started; None = no limit for a place.
        display: Shows what happens.
    """

    def __init__(
        self,
        cluster: Cluster,
        job: TrainJob,
        name: str,
        *,
        logs: Path,
        start_timeout_seconds: int | None,
        display: JobDisplay,
    ) -> None:
        self._cluster, self._job, self._name, self._logs = cluster, job, name, logs
        self._display = display
        self._start_timeout_seconds = start_timeout_seconds
        self._created_at = ""
        self._start_by = time.monotonic() + (start_timeout_seconds or float("inf"))
        self._obstacle_since: float | None = None
        self._events_at = float("-inf")
        self._events: list[waiting.Event] = []
        self._pods: dict[int, Pod] = {}
        self._last_line: dict[str, str] = {}
        self._read_at: dict[str, float] = {}
        self._unread_until: dict[str, float] = {}
        self._turn = 0
        self._monitor: TrainingMonitor | None = None
        self._resumed_at = -1

    def watch(self) -> None:
        """Return when the training is done.

        Raises:
            Preempted: This process was asked to end; the job trains on.
            KeyboardInterrupt: Ctrl-C came twice; the job is deleted.
            RankLost: The job failed in a way that may not come again.
            StageError: The job failed, or is gone.
        """
        with self._confirming_ctrl_c():
            try:
                while not self._poll():
                    time.sleep(POLL_SECONDS)
            except TokenRefused as error:
                raise StageError(f"{error.message}; TrainJob {self._name} trains on", fix=error.fix) from error
            except Unreachable as error:
                message = f"{error.message}; TrainJob {self._name} trains on"
                raise Unreachable(message, fix="repeat the command to follow it again") from error
            except KeyboardInterrupt as error:
                if isinstance(error, Preempted):  # this pod is drained, or this machine shuts down
                    raise Preempted(f"{error}; TrainJob {self._name} trains on meanwhile") from error
                self._display.say(f"  deleting TrainJob {self._name}: its pods save their state first")
                delete(self._cluster, self._job, self._name, self._display)
                raise

    @contextmanager
    def _confirming_ctrl_c(self) -> Iterator[None]:
        """Make a first Ctrl-C say what a second one does, until the block ends."""
        asked_at = float("-inf")

        def ask(_number: int, _frame: FrameType | None) -> None:
            nonlocal asked_at
            if time.monotonic() - asked_at < _SECOND_CTRL_C_SECONDS:
                raise KeyboardInterrupt
            asked_at = time.monotonic()
            hint = f"press Ctrl-C again within {_SECOND_CTRL_C_SECONDS:.0f} seconds to delete it"
            self._display.say(f"  TrainJob {self._name} is training; {hint} (`sft run --detach` doesn't wait for it)")

        is_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, ask) if is_main else None
        try:
            yield
        finally:
            if is_main:
                signal.signal(signal.SIGINT, before)

    def _poll(self) -> bool:
        """Ask the cluster once; return whether the training is done."""
        update = self._display.update
        existing = ask(lambda: self._cluster.find(self._job.key, self._job.place), update)
        if existing is None or "deletionTimestamp" in existing["metadata"]:
            raise StageError(
                f"TrainJob {self._name} was deleted by somebody else",
                fix="repeat the command to create another one, which resumes from the last full state",
            )
        self._created_at = str(existing["metadata"]["creationTimestamp"])
        state = status.condition(existing)
        pods = status.pods(ask(lambda: self._cluster.pods(self._name), update))
        is_over = state.state in {State.complete, State.failed}
        self._show_restarts(pods)
        self._read_logs(pods, every=is_over)
        self._read_metrics()
        if state.state is State.complete:
            self._wait_for_volume()
            return True
        failures = [end for end in pod_entrypoint.node_reports(self._logs) if end.exit is NodeExit.failed]
        if state.state is State.failed or failures or any(_is_hopeless(pod) for pod in pods):
            self._fail(state, pods, is_over=state.state is State.failed)
        if sum(pod.phase == "Running" for pod in pods) < self._job.num_nodes:
            self._read_events()
            update(waiting.summary(state, pods, self._events, self._job.num_nodes))
            self._check_obstacle(pods)
            self._check_start(pods)
        else:
            self._obstacle_since = None
        return False

    def _show_restarts(self, pods: list[Pod]) -> None:
        for new in pods:
            old = self._pods.get(new.node)
            self._pods[new.node] = new
            if old is not None and old.name != new.name:
                why = f" ({old.lost})" if old.lost else ""
                self._display.say(f"  node {new.node}: its pod was lost{why}; {new.name} replaces it")
            elif old is not None and new.restarts > old.restarts:
                self._read_log(new, previous=True)
                why = f" after status {new.last_exit.status} ({new.last_exit.reason})" if new.last_exit else ""
                self._display.say(f"  node {new.node}: restarted{why}; resumes from the last full state")

    def _read_logs(self, pods: list[Pod], *, every: bool) -> None:
        """Show new lines of the pods; if there are many pods, of a few at a time."""
        if every:
            self._unread_until = dict.fromkeys(self._unread_until, 0.0)
        started = [pod for pod in pods if pod.has_started]
        count = len(started) if every else min(_LOGS_PER_POLL, len(started))
        for place in range(count):
            self._read_log(started[(self._turn + place) % len(started)])
        self._turn += count

    def _read_log(self, pod: Pod, *, previous: bool = False) -> None:
        now, before = time.monotonic(), self._read_at.get(pod.name)
        since = None if before is None or previous else int(now - before) + _OVERLAP_SECONDS
        lines = self._log(pod, since_seconds=since, previous=previous)
        if lines is None:
            return
        self._read_at[pod.name] = now
        new, self._last_line[pod.name] = status.new_lines(lines, self._last_line.get(pod.name, ""))
        for line in new:
            if line.strip() and not line.startswith(pod_entrypoint.STEP):
                self._display.say(f"  node {pod.node}: {line}")

    def _log(self, pod: Pod, *, since_seconds: int | None = None, previous: bool = False) -> list[str] | None:
        """Return lines of a pod; none without the right to read them, which was said at the start.

        None where they can't be read now. They only serve people, and the API server asks the pod's machine for them,
        which may be lost: so one request is made, and no other for a while.
        """
        if time.monotonic() < self._unread_until.get(pod.name, 0.0):
            return None
        try:
            return self._cluster.log(pod.name, since_seconds=since_seconds, previous=previous)
        except NotAllowed:
            return []
        except Unreachable as error:
            if pod.name not in self._unread_until:
                self._display.say(f"  node {pod.node}: its log can't be read now: {error.message}")
            self._unread_until[pod.name] = time.monotonic() + _UNREAD_SECONDS
            return None

    def _warnings(self) -> list[waiting.Event]:
        """Return what the cluster warns of; nothing without the right to read it, which was said at the start."""
        try:
            return waiting.events(ask(self._cluster.events, self._display.update), self._name, since=self._created_at)
        except NotAllowed:
            return []

    def _read_metrics(self) -> None:
        """Show the training's progress, from the beginning after each start of the ranks."""
        try:
            resumed_at = (self._logs / RESUMED).stat().st_mtime_ns
        except FileNotFoundError:
            return
        if self._monitor is None or resumed_at != self._resumed_at:
            # The pods themselves notice hangs; messages of the ranks come through their logs.
            self._monitor = TrainingMonitor(self._logs, float("inf"), self._display.watch, lambda _: None)
            self._resumed_at = resumed_at
        self._monitor.poll()

    def _read_events(self) -> None:
        if time.monotonic() - self._events_at < _EVENTS_SECONDS:
            return
        self._events_at = time.monotonic()
        before, self._events = self._events, self._warnings()
        for event in self._events:
            if event not in before:
                self._display.say(f"  {event.about}: {event}")

    def _check_obstacle(self, pods: list[Pod]) -> None:
        """End the job if something that nobody mends has kept it from running for too long, or will for ever."""
        obstacle = waiting.obstacle(pods, self._events, self._job.num_nodes)
        if obstacle is None:
            self._obstacle_since = None
            return
        self._obstacle_since = self._obstacle_since or time.monotonic()
        seconds = time.monotonic() - self._obstacle_since
        if obstacle.is_final or seconds > (self._start_timeout_seconds or _MENDED_SECONDS):
            delete(self._cluster, self._job, self._name, self._display)
            how_long = "can't run" if obstacle.is_final else f"did not run for {seconds:.0f} seconds"
            message = f"TrainJob {self._name} {how_long}, and was deleted\n    {obstacle.reason}"
            raise StageError(message, fix=obstacle.fix)

    def _check_start(self, pods: list[Pod]) -> None:
        have_started = len(pods) == self._job.num_nodes and all(pod.has_started for pod in pods)
        if time.monotonic() < self._start_by or have_started:
            return
        self._events_at = float("-inf")
        self._read_events()
        reasons = [f"node {pod.node} waits: {pod.waits_for}" for pod in pods if pod.waits_for]
        reasons = reasons or [str(event) for event in self._events[-1:]] or ["the cluster gives no reason"]
        obstacle = waiting.obstacle(pods, self._events, self._job.num_nodes)
        delete(self._cluster, self._job, self._name, self._display)
        raise StageError(
            f"TrainJob {self._name} has not started within training.launcher.start_timeout_seconds, and was deleted\n"
            + "\n".join(f"    {line}" for line in reasons),
            fix=obstacle.fix if obstacle else "raise training.launcher.start_timeout_seconds, or ask for less",
        )

    def _fail(self, state: status.Condition, pods: list[Pod], *, is_over: bool) -> NoReturn:
        self._read_logs(pods, every=True)
        pods = pods or list(self._pods.values())  # a Job that failed deletes its pods

        def last_lines(pod: Pod) -> list[str]:
            lines = self._log(pod, previous=pod.runs_again)
            now = status.pods(ask(lambda: self._cluster.pods(self._name), self._display.update))
            has_begun_again = any(one.name == pod.name and one.restarts > pod.restarts for one in now)
            if not lines or (has_begun_again and not pod.runs_again):  # then the end is in the log before
                lines = self._log(pod, previous=not pod.runs_again) or lines
            return [line.partition(" ")[2] for line in lines or ()]

        error = explain(
            self._name,
            state,
            pods,
            exits=pod_entrypoint.node_reports(self._logs),
            events=self._warnings(),
            last_lines=last_lines,
            logs=self._logs,
        )
        if not is_over:  # it would fail like this as often as the runtime restarts it
            delete(self._cluster, self._job, self._name, self._display)
        raise error

    def _wait_for_volume(self) -> None:
        deadline = time.monotonic() + _VOLUME_SECONDS
        while not (self._logs / FINISHED).exists():
            if time.monotonic() > deadline:
                fix = "mount the volume of training.launcher.pvc here, too, with run_root on it"
                raise StageError(f"TrainJob {self._name} is complete, but {self._logs / FINISHED} is not here", fix=fix)
            self._display.update("waiting for the volume to show what the pods wrote")
            time.sleep(POLL_SECONDS)
        self._read_metrics()


def _is_hopeless(pod: Pod) -> bool:
    """Return whether a container ended repeatedly for a reason that stays: no memory, no Python, no sft."""
    if pod.last_exit is None:
        return False
    if pod.last_exit.reason == "OOMKilled":
        return pod.restarts >= 1
    return pod.last_exit.status in _HOPELESS and pod.restarts >= 2
