"""Staying with a TrainJob: what there is to see of it goes to the run's display, until it has ended.

The job is the cluster's and goes on without this process. Only an error that would come again, a second Ctrl-C and
`training.launcher.start_timeout_seconds` end it.
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
from sft.adapters.instructlab.monitor import View
from sft.adapters.instructlab.pod_entrypoint import Verdict
from sft.adapters.kubeflow import status
from sft.adapters.kubeflow.cluster import Cluster, TokenRefused, Unreachable
from sft.adapters.kubeflow.failure import explain
from sft.adapters.kubeflow.job import POLL_SECONDS, Display, ask, remove
from sft.adapters.kubeflow.manifest import TrainJob
from sft.adapters.kubeflow.status import Pod, State
from sft.errors import Preempted, StageError

_EVENTS_SECONDS = 5.0
_AGAIN_SECONDS = 10.0
_LOGS_PER_POLL = 4
_OVERLAP_SECONDS = 5
_VOLUME_SECONDS = 60.0
"""How long a file that a pod wrote may take to appear here: clients of NFS look anew after that."""

_HOPELESS = {1, 2, 126, 127, 128}
"""Exit statuses of what could not even begin; a node that begins ends with a `Verdict`."""


class JobWatcher:
    """Stays with a job until it has ended.

    Args:
        cluster: Where it is.
        job: What was asked.
        name: Of the job at work.
        logs: Of the run, on the shared volume.
        num_epochs: Of the training.
        start_timeout_seconds: After which all pods must have begun; None = whenever.
        display: Where what is seen goes.
    """

    def __init__(
        self,
        cluster: Cluster,
        job: TrainJob,
        name: str,
        *,
        logs: Path,
        num_epochs: int,
        start_timeout_seconds: int | None,
        display: Display,
    ) -> None:
        self._cluster, self._job, self._name, self._logs = cluster, job, name, logs
        self._num_epochs, self._display = num_epochs, display
        self._start_by = time.monotonic() + (start_timeout_seconds or float("inf"))
        self._events_at = float("-inf")
        self._events: list[status.Event] = []
        self._pods: dict[int, Pod] = {}
        self._last_line: dict[str, str] = {}
        self._read_at: dict[str, float] = {}
        self._turn = 0
        self._view: View | None = None
        self._resumed_at = -1

    def watch(self) -> None:
        """Returns once the training is done.

        Raises:
            Preempted: This process was asked to end; the job goes on.
            KeyboardInterrupt: Ctrl-C came twice; the job is deleted.
            RankLost: The job failed in a way that may go well the next time.
            StageError: The job failed, or is gone.
        """
        with self._asking_before_the_end():
            try:
                while not self._look():
                    time.sleep(POLL_SECONDS)
            except TokenRefused as error:
                raise StageError(f"{error.message}; TrainJob {self._name} goes on by itself", fix=error.fix) from error
            except Unreachable as error:
                what = f"{error.message}; TrainJob {self._name} goes on by itself"
                raise Unreachable(what, fix="the same command goes on with it") from error
            except KeyboardInterrupt as error:
                if error.args:  # a signal that is no Ctrl-C: this pod is drained, or this machine goes down
                    what = f"{error.args[0]}: TrainJob {self._name} goes on by itself; the same command goes on with it"
                    raise Preempted(what) from error
                self._display.say(f"  deletes TrainJob {self._name}: its pods save their state first")
                remove(self._cluster, self._job.key, self._name, self._display)
                raise

    @contextmanager
    def _asking_before_the_end(self) -> Iterator[None]:
        """While the block runs, a first Ctrl-C only says what a second one does."""
        asked_at = float("-inf")

        def ask(_number: int, _frame: FrameType | None) -> None:
            nonlocal asked_at
            if time.monotonic() - asked_at < _AGAIN_SECONDS:
                raise KeyboardInterrupt
            asked_at = time.monotonic()
            again = f"Ctrl-C again within {_AGAIN_SECONDS:.0f} seconds deletes it"
            self._display.say(f"  TrainJob {self._name} is at work; {again} (`sft run --detach` leaves it to itself)")

        is_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, ask) if is_main else None
        try:
            yield
        finally:
            if is_main:
                signal.signal(signal.SIGINT, before)

    def _look(self) -> bool:
        """Looks once; whether the training is done."""
        update = self._display.update
        found = ask(lambda: self._cluster.find(self._job.key), update)
        if found is None or "deletionTimestamp" in found["metadata"]:
            raise StageError(
                f"TrainJob {self._name} was deleted by somebody else",
                fix="the same command begins another, from the last full state",
            )
        state = status.condition(found)
        have = status.pods(ask(lambda: self._cluster.pods(self._name), update))
        over = state.state in {State.complete, State.failed}
        self._tell_restarts(have)
        self._read_logs(have, every=over)
        self._look_at_metrics()
        if state.state is State.complete:
            self._wait_for_the_volume()
            return True
        own = [end for end in pod_entrypoint.node_exits(self._logs) if end.verdict is Verdict.failed]
        if state.state is State.failed or own or any(_must_end(p) for p in have):
            self._fail(state, have, is_over=state.state is State.failed)
        if sum(p.phase == "Running" for p in have) < self._job.num_nodes:
            update(status.summary(state, have, self._job.num_nodes))
            self._look_at_events()
            self._check_start(have)
        return False

    def _tell_restarts(self, have: list[Pod]) -> None:
        for new in have:
            old = self._pods.get(new.node)
            self._pods[new.node] = new
            if old is not None and old.name != new.name:
                why = f" ({old.lost})" if old.lost else ""
                self._display.say(f"  node {new.node}: its pod was lost{why}; {new.name} takes its place")
            elif old is not None and new.restarts > old.restarts:
                self._read_log(new, previous=True)
                ending = f", which ended with status {new.stop.status} ({new.stop.reason})" if new.stop else ""
                self._display.say(f"  node {new.node}: begins again{ending}; goes on from the last full state")

    def _read_logs(self, have: list[Pod], *, every: bool) -> None:
        """New lines of the pods, of a few of many in turn."""
        begun = [p for p in have if p.began]
        count = len(begun) if every else min(_LOGS_PER_POLL, len(begun))
        for place in range(count):
            self._read_log(begun[(self._turn + place) % len(begun)])
        self._turn += count

    def _read_log(self, one: Pod, *, previous: bool = False) -> None:
        now, before = time.monotonic(), self._read_at.get(one.name)
        since = None if before is None or previous else int(now - before) + _OVERLAP_SECONDS
        lines = ask(lambda: self._cluster.log(one.name, since_seconds=since, previous=previous), self._display.update)
        self._read_at[one.name] = now
        new, self._last_line[one.name] = status.new_lines(lines, self._last_line.get(one.name, ""))
        for line in new:
            if line.strip() and not line.startswith(pod_entrypoint.STEP):
                self._display.say(f"  node {one.node}: {line}")

    def _look_at_metrics(self) -> None:
        """The training's progress, anew after each start of the ranks."""
        try:
            resumed_at = (self._logs / RESUMED).stat().st_mtime_ns
        except FileNotFoundError:
            return
        if self._view is None or resumed_at != self._resumed_at:
            # Hangs are the pods' to notice; what the ranks say comes through their logs.
            self._view = View(self._logs, self._num_epochs, float("inf"), self._display.watch, lambda _: None)
            self._resumed_at = resumed_at
        self._view.look()

    def _look_at_events(self) -> None:
        if time.monotonic() - self._events_at < _EVENTS_SECONDS:
            return
        self._events_at = time.monotonic()
        found = ask(self._cluster.events, self._display.update)
        for event in status.events(found, self._name):
            if event not in self._events:
                self._events.append(event)
                self._display.say(f"  {event.about}: {event}")

    def _check_start(self, have: list[Pod]) -> None:
        if time.monotonic() < self._start_by or (len(have) == self._job.num_nodes and all(p.began for p in have)):
            return
        self._events_at = float("-inf")
        self._look_at_events()
        waits = [f"node {p.node} waits: {p.waits_for}" for p in have if p.waits_for]
        waits = waits or [str(event) for event in self._events[-1:]] or ["nothing says why"]
        remove(self._cluster, self._job.key, self._name, self._display)
        raise StageError(
            f"TrainJob {self._name} has not begun in training.launcher.start_timeout_seconds, and is deleted\n"
            + "\n".join(f"    {line}" for line in waits)
        )

    def _fail(self, state: status.Condition, have: list[Pod], *, is_over: bool) -> NoReturn:
        self._read_logs(have, every=True)
        found = ask(self._cluster.events, self._display.update)

        def last_lines(one: Pod) -> list[str]:
            for previous in (False, True) if one.restarts else (False,):
                if lines := ask(
                    lambda before=previous: self._cluster.log(one.name, previous=before),  # type: ignore[misc]
                    self._display.update,
                ):
                    return [line.partition(" ")[2] for line in lines]
            return []

        error = explain(
            self._name,
            state,
            have,
            ends=pod_entrypoint.node_exits(self._logs),
            events=status.events(found, self._name),
            last_lines=last_lines,
            logs=self._logs,
        )
        if not is_over:  # it would fail like this again and again, as often as the runtime lets it
            remove(self._cluster, self._job.key, self._name, self._display)
        raise error

    def _wait_for_the_volume(self) -> None:
        deadline = time.monotonic() + _VOLUME_SECONDS
        while not (self._logs / FINISHED).exists():
            if time.monotonic() > deadline:
                fix = "training.launcher.pvc and mount_path must be the volume that run_root lies on, here too"
                raise StageError(f"TrainJob {self._name} is complete, but {self._logs / FINISHED} is not here", fix=fix)
            self._display.update("waits for the volume to show what the pods wrote")
            time.sleep(POLL_SECONDS)
        self._look_at_metrics()


def _must_end(one: Pod) -> bool:
    """Whether a container ended, and ended again, in a way that will not get better: no memory, no Python, no sft."""
    if one.stop is None:
        return False
    if one.stop.reason == "OOMKilled":
        return one.restarts >= 1
    return one.stop.status in _HOPELESS and one.restarts >= 2
