"""One node of a training in a pod: ``python -m sft.adapters.instructlab.pod_entrypoint LOGS``.

Does what `launch` does on a machine, with the settings that the orchestrator saved on the shared volume and the place
among the nodes that Kubeflow's torch runtime says in ``PET_*``. How it ended is in ``LOGS/ended/node_N.json`` and in
the exit status; the kubelet starts the container again after any status but 0, and the training goes on from its last
full state, unless it ended of an error of its own: then each further start ends at once with the same words.
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
from sft.adapters.instructlab.layout import FINISHED, SETTINGS
from sft.adapters.instructlab.monitor import RankLost, TrainingProgress
from sft.adapters.instructlab.node_rendezvous import FOLDER, NodeRendezvous
from sft.adapters.instructlab.settings import LaunchSettings, MainArgs, Nodes, WorkerOptions
from sft.adapters.instructlab.torchrun import clear, supervise_node
from sft.errors import Preempted, SftError, StageError
from sft.files import write_json
from sft.logs import mask_streams, redact

ENDED = "ended"
STEP = "step "
"""How the lines begin that say no more than ``metrics.jsonl`` does."""

_SAY_EVERY_SECONDS = 30.0
_SIGHT_SECONDS = 5.0
"""How long a file of another node may take to be seen."""

_PACKAGES = ("torch", "instructlab-training", "accelerate", "transformers")
"""That make the weights: the pods must have those that the run's record names."""
_PET = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")


class Verdict(Enum):
    """How a node ended; the value is its exit status."""

    preempted = 75
    """Asked to stop, its state saved."""
    lost = 69
    """A rank was killed, hung or lost its connection: it may go well the next time."""
    failed = 1
    """An error of its own: the next time would end like this one."""


class _Done(Exception):
    """Nothing is left to do."""


@dataclass(frozen=True)
class Ended:
    """A node's own words about its end."""

    node: int
    verdict: Verdict
    message: str
    fix: str | None


def clear_notes(logs: Path) -> None:
    """Takes away what an earlier job has noted. None may be at work."""
    clear(logs)
    for folder in (ENDED, FOLDER):
        shutil.rmtree(logs / folder, ignore_errors=True)


def save(logs: Path, main: MainArgs, options: WorkerOptions, env: Mapping[str, str]) -> None:
    """What every node reads, written by the orchestrator before there is any.

    Args:
        logs: On the shared volume.
        main: What the library gets.
        options: What it hard-codes, has wrong or has not.
        env: Added to every rank's environment.
    """
    content = {"main": asdict(main), "options": asdict(options), "env": dict(env), "versions": _versions()}
    write_json(logs / SETTINGS, content)


def node_exits(logs: Path) -> list[Ended]:
    """How nodes have ended since `forget`, the first first; a node that started again has none."""
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in (logs / ENDED).glob("node_*.json")]
    notes.sort(key=lambda note: float(note["time"]))
    return [Ended(n["node"], Verdict[n["verdict"]], n["message"], n["fix"]) for n in notes]


def main() -> None:
    """Trains this node's part.

    Raises:
        SystemExit: With the status of a `Verdict`.
    """
    mask_streams()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupted)  # the first process of a container ignores what it does not handle
    logs, node = Path(sys.argv[1]), int(os.environ.get("PET_NODE_RANK", "0"))
    try:
        _train(logs, node)
    except _Done:
        _tell("the training is done")
    except Preempted as error:
        _end(logs, node, Verdict.preempted, StageError(str(error)))
    except RankLost as error:
        _end(logs, node, Verdict.lost, error)
    except SftError as error:
        _end(logs, node, Verdict.failed, error)


def _train(logs: Path, node: int) -> None:
    try:
        saved = json.loads((logs / SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        fix = "training.launcher.pvc and mount_path must be the volume that run_root lies on"
        raise StageError(f"{logs / SETTINGS} is not there: the pod does not see the run's folder", fix=fix) from error
    except OSError as error:
        fix = "training.launcher.fs_group, or a volume that the pods' user may use"
        raise StageError(f"{logs / SETTINGS} can't be read: {error.strerror}", fix=fix) from error
    _check_others(logs)
    _check_versions(saved["versions"])
    settings = _settings(saved)
    gathering = NodeRendezvous(logs, node, settings.nodes.num)
    gathering.wait(lambda: _check_others(logs), _tell, lambda: clear(logs))
    (logs / ENDED / f"node_{node}.json").unlink(missing_ok=True)
    supervise_node(
        MainArgs(**saved["main"]),
        settings,
        logs=logs,
        check=gathering.check,
        watch=_Telling(is_first=node == 0).watch,
        say=lambda text: _tell(text.strip()),
    )
    if not _appears(logs / FINISHED):
        # Node 0 may have begun anew by now, and have taken the note of the stop away.
        raise Preempted("stopped before the end; the training goes on when all nodes have begun again")


def _appears(file: Path) -> bool:
    """Whether a file is there, or comes into sight: clients of NFS see a new one late."""
    deadline = time.monotonic() + _SIGHT_SECONDS
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _check_others(logs: Path) -> None:
    """Whether this node has anything to do.

    Raises:
        StageError: Another one has failed of what would come again.
        _Done: The training is done.
    """
    if (logs / FINISHED).exists():
        raise _Done
    if own := next((end for end in node_exits(logs) if end.verdict is Verdict.failed), None):
        raise StageError(own.message, fix=own.fix)


def _settings(saved: Mapping[str, Any]) -> LaunchSettings:
    if absent := [name for name in _PET if not os.environ.get(name)]:
        fix = "a ClusterTrainingRuntime with mlPolicy.torch, as torch-distributed is"
        raise StageError(f"the runtime sets no {', '.join(absent)}", fix=fix)
    num, processes, rank, address, port = (os.environ[name] for name in _PET)
    return LaunchSettings(
        num_processes=int(processes),
        nodes=Nodes(num=int(num), rank=int(rank), rendezvous=f"{address}:{port}"),
        env=dict(saved["env"]),
        stall_timeout_seconds=saved["options"]["stall_timeout_seconds"],
    )


def _versions() -> dict[str, str]:
    """Of sft and what makes the weights; a build's name after + (``+cpu``) is not part of it."""
    return {"sft": __version__, **{name: metadata.version(name).partition("+")[0] for name in _PACKAGES}}


def _check_versions(recorded: Mapping[str, str]) -> None:
    here = _versions()
    if other := [f"{name} {here[name]}, not {version}" for name, version in recorded.items() if here[name] != version]:
        fix = "one image for sft and its pods: training.launcher.image"
        raise StageError(f"the pod's image has {'; '.join(other)}, which the run's record names", fix=fix)


class _Telling:
    """Now and then a line of how far it is, for who reads the pod's log."""

    def __init__(self, *, is_first: bool) -> None:
        self._next_at = 0.0 if is_first else float("inf")

    def watch(self, live: TrainingProgress) -> None:
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + _SAY_EVERY_SECONDS
            row = live.row
            _tell(f"{STEP}{row['step']}/{live.num_steps}, loss {row['loss']:.4f}, {live.seconds_left:.0f} s left")


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _end(logs: Path, node: int, verdict: Verdict, error: SftError) -> None:
    _tell(str(error) if verdict is Verdict.preempted else f"error: {error}")
    note = {"node": node, "verdict": verdict.name, "message": redact(error.message), "fix": error.fix}
    if (logs / SETTINGS).exists():
        (logs / ENDED).mkdir(exist_ok=True)
        write_json(logs / ENDED / f"node_{node}.json", {**note, "time": time.time()})
    raise SystemExit(verdict.value) from error


def _interrupted(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
