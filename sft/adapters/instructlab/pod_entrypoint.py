"""Runs one node of a training in a pod: ``python -m sft.adapters.instructlab.pod_entrypoint LOGS``.

Does what `torchrun.launch` does on a machine, with the settings that the run saved on the shared volume, and as the
node that Kubeflow's torch runtime names in ``PET_*``. ``LOGS/ended/node_N.json`` and the exit status say how it ended.
The kubelet restarts the container after any status but 0, and the training resumes from its last full state. A node
that has lost the others does not end: it waits for them in its process, because the Job counts every container that
begins again, and few are borne. After an error that would come again, each start ends at once with the same message.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

from sft import __version__
from sft.adapters.instructlab.layout import FINISHED, RESUMED, SETTINGS
from sft.adapters.instructlab.monitor import RankKilled, RankLost, TrainingProgress
from sft.adapters.instructlab.node_rendezvous import FOLDER, NodeRendezvous
from sft.adapters.instructlab.settings import LaunchSettings, MainArgs, Nodes, WorkerOptions
from sft.adapters.instructlab.torchrun import StoppedElsewhere, clear, supervise_node
from sft.adapters.instructlab.trainer_status import TrainerStatus
from sft.adapters.os import machine
from sft.errors import Preempted, SftError, StageError
from sft.files import write_json
from sft.logs import mask_streams
from sft.redaction import redact

ENDED = "ended"
STEP = "step "
"""Prefix of the lines that repeat ``metrics.jsonl``."""

_MOST_LOSSES = 6
"""So often in a row ranks are lost without a new full state before this node ends: as many ends as a Job bears."""
_PRINT_SECONDS = 30.0
_VISIBLE_SECONDS = 5.0
"""How long a file of another node may take to be visible here."""

_PACKAGES = ("torch", "instructlab-training", "accelerate", "transformers")
"""Packages that determine the weights: the pods must have the versions that the run's record names."""
_PET = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")


class NodeExit(Enum):
    """How a node ended. The value is its exit status."""

    preempted = 75
    """It was asked to stop, and its state is saved."""
    lost = 69
    """A rank was killed, or the others were lost too often: the next attempt may succeed."""
    failed = 1
    """It failed with an error that would come again."""


class _AlreadyTrained(Exception):
    """The training is finished: nothing is left to do."""


@dataclass(frozen=True)
class NodeReport:
    """How a node says that it ended."""

    node: int
    exit: NodeExit
    message: str
    fix: str | None


def clear_notes(logs: Path) -> None:
    """Remove the notes of an earlier job. No job may be running."""
    clear(logs)
    for folder in (ENDED, FOLDER):
        shutil.rmtree(logs / folder, ignore_errors=True)


def save(logs: Path, main: MainArgs, options: WorkerOptions, env: Mapping[str, str]) -> None:
    """Write the settings that every node reads, before the job is created.

    Args:
        logs: The run's folder for logs, on the shared volume.
        main: Arguments of the library.
        options: Settings that the library lacks or hard-codes.
        env: Added to every rank's environment.
    """
    content = {"main": asdict(main), "options": asdict(options), "env": dict(env), "versions": _versions()}
    write_json(logs / SETTINGS, content)


def node_reports(logs: Path) -> list[NodeReport]:
    """Return how nodes have ended since `clear_notes`, in the order of time; a node that was restarted has no entry."""
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in (logs / ENDED).glob("node_*.json")]
    notes.sort(key=lambda note: float(note["time"]))
    return [NodeReport(note["node"], NodeExit[note["exit"]], note["message"], note["fix"]) for note in notes]


def main() -> None:
    """Train this node's part.

    Raises:
        SystemExit: With the status of a `NodeExit`.
    """
    mask_streams()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupted)  # the first process of a container ignores what it does not handle
    logs, node = Path(sys.argv[1]), int(os.environ.get("PET_NODE_RANK", "0"))
    try:
        _train(logs, node)
    except _AlreadyTrained:
        _print("the training is done")
    except Preempted as error:
        _exit(logs, node, NodeExit.preempted, StageError(str(error)))
    except RankLost as error:
        _exit(logs, node, NodeExit.lost, error)
    except SftError as error:
        _exit(logs, node, NodeExit.failed, error)


def _train(logs: Path, node: int) -> None:
    try:
        saved = json.loads((logs / SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        fix = "set training.launcher.pvc and mount_path to the volume with run_root"
        raise StageError(f"{logs / SETTINGS} does not exist: the pod does not see the run's folder", fix=fix) from error
    except OSError as error:
        fix = "set training.launcher.fs_group, or use a volume that the pods' user may read"
        raise StageError(f"{logs / SETTINGS} can't be read: {error.strerror}", fix=fix) from error
    _check_others(logs)
    _check_versions(saved["versions"])
    settings = _settings(saved)
    rendezvous = NodeRendezvous(logs, node, settings.nodes.num)
    num_losses, furthest = 0, -1
    while True:
        rendezvous.wait(lambda: _check_others(logs), _print, lambda: clear(logs))
        (logs / ENDED / f"node_{node}.json").unlink(missing_ok=True)
        try:
            _supervise(saved, settings, logs, rendezvous)
            return
        except StoppedElsewhere as stop:
            why = str(stop)
        except RankLost as lost:
            began_at = _resumed_step(logs)
            num_losses = num_losses + 1 if began_at <= furthest else 1
            furthest = max(furthest, began_at)
            if isinstance(lost, RankKilled) or settings.nodes.num == 1 or num_losses >= _MOST_LOSSES:
                raise
            why = lost.message
        _print(f"{why}; all nodes begin anew from the last full state")


def _supervise(saved: Mapping[str, Any], settings: LaunchSettings, logs: Path, rendezvous: NodeRendezvous) -> None:
    """Run the ranks of this node until the training is done.

    Raises:
        Preempted: This node was asked to stop.
        StoppedElsewhere: Another one was.
        RankLost: A rank was killed, hung or lost its connection, or a node has left the group.
        StageError: A rank failed.
    """
    was_asked = supervise_node(
        MainArgs(**saved["main"]),
        settings,
        logs=logs,
        check=rendezvous.check,
        watch=_StepPrinter(is_first=settings.nodes.rank == 0).watch,
        say=lambda text: _print(text.strip()),
    )
    if not _becomes_visible(logs / FINISHED):
        # Node 0 may have been restarted by now, and have removed the note of the stop.
        stopped = Preempted if was_asked else StoppedElsewhere
        raise stopped("stopped before the end; the training resumes when all nodes have started again")


def _resumed_step(logs: Path) -> int:
    """Return the step of the full state from which the ranks have begun; -1 if they did not come to that."""
    try:
        return int(json.loads((logs / RESUMED).read_text(encoding="utf-8"))["step"])
    except FileNotFoundError:
        return -1


def _becomes_visible(file: Path) -> bool:
    """Return whether a file exists or soon becomes visible: clients of NFS see a new one late."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _check_others(logs: Path) -> None:
    """Raise if this node has nothing to do.

    Raises:
        StageError: Another node failed with an error that would come again.
        _AlreadyTrained: The training is finished.
    """
    if (logs / FINISHED).exists():
        raise _AlreadyTrained
    if report := next((report for report in node_reports(logs) if report.exit is NodeExit.failed), None):
        raise StageError(report.message, fix=report.fix)


def _settings(saved: Mapping[str, Any]) -> LaunchSettings:
    if missing := [name for name in _PET if not os.environ.get(name)]:
        fix = "use a ClusterTrainingRuntime with mlPolicy.torch, such as torch-distributed"
        raise StageError(f"the runtime does not set {', '.join(missing)}", fix=fix)
    num, processes, rank, address, port = (os.environ[name] for name in _PET)
    return LaunchSettings(
        num_processes=int(processes),
        nodes=Nodes(num=int(num), rank=int(rank), rendezvous=f"{address}:{port}"),
        env=dict(saved["env"]),
        stall_timeout_seconds=saved["options"]["stall_timeout_seconds"],
        gpus=(machine.gpu_ids()[: int(processes)] or None) if saved["options"]["on_gpu"] else (),
    )


def _versions() -> dict[str, str]:
    """Return the versions of sft and of `_PACKAGES`, without a build's name after + (``+cpu``)."""
    return {"sft": __version__, **{name: metadata.version(name).partition("+")[0] for name in _PACKAGES}}


def _check_versions(recorded: Mapping[str, str]) -> None:
    own = _versions()
    if other := [f"{name} {own[name]}, not {version}" for name, version in recorded.items() if own[name] != version]:
        fix = "set training.launcher.image to the image of this sft"
        raise StageError(f"the pod's image has {'; '.join(other)}, which the run's record names", fix=fix)


class _StepPrinter:
    """Prints the progress now and then, for readers of the pod's log, and tells it to Kubeflow Trainer."""

    def __init__(self, *, is_first: bool) -> None:
        self._is_first, self._next_at = is_first, 0.0
        self._status = TrainerStatus(_print)

    def watch(self, progress: TrainingProgress) -> None:
        is_last = progress.row["step"] == progress.num_steps
        if self._is_first and (is_last or time.monotonic() >= self._next_at):
            self._next_at = time.monotonic() + _PRINT_SECONDS
            self._status.tell(progress)
            row = progress.row
            _print(
                f"{STEP}{row['step']}/{progress.num_steps}, loss {row['loss']:.4f}, {progress.seconds_left:.0f} s left"
            )


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _exit(logs: Path, node: int, node_exit: NodeExit, error: SftError) -> None:
    _print(str(error) if node_exit is NodeExit.preempted else f"error: {error}")
    note = {"node": node, "exit": node_exit.name, "message": redact(error.message), "fix": error.fix}
    if (logs / SETTINGS).exists():
        (logs / ENDED).mkdir(exist_ok=True)
        write_json(logs / ENDED / f"node_{node}.json", {**note, "time": time.time()})
    raise SystemExit(node_exit.value) from error


def _interrupted(number: int, _frame: FrameType | None) -> None:
    raise Preempted(f"{signal.Signals(number).name}: ended; no rank was at work here")


if __name__ == "__main__":
    main()
