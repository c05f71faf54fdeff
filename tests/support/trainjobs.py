"""A TrainJob whose pods run a line of Python on the stand-in cluster, and what a person reads of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sft.adapters.kubeflow import job
from sft.adapters.kubeflow.access import Access, connect
from sft.adapters.kubeflow.cluster import Cluster
from sft.adapters.kubeflow.job import JobDisplay
from sft.adapters.kubeflow.manifest import TrainJob
from sft.adapters.kubeflow.watch import JobWatcher

ACCESS = Access(namespace="sft", verify_tls=True, ca=None)
DONE = "import pathlib; pathlib.Path('finished.json').write_text('{}')"
SLEEP = "import time; print('at work', flush=True); time.sleep(60)"


@dataclass
class Seen:
    """What a person would have read."""

    lines: list[str] = field(default_factory=list)
    on_line: Callable[[str], object] = lambda _: None

    def display(self) -> JobDisplay:
        return JobDisplay(watch=lambda _: None, update=lambda text: self._say(f"({text})"), say=self._say)

    def _say(self, text: str) -> None:
        self.lines.append(text)
        self.on_line(text)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def asked(folder: Path, script: str, **changes: Any) -> TrainJob:
    """A job of two pods that run a script."""
    plain = TrainJob(
        run="quickstart-1a2b3c4d",
        key="0123456789abcdef0123",
        namespace=None,
        runtime="torch-distributed",
        image="sft:test",
        command=("python", "-c", script),
        num_nodes=2,
        procs_per_node=1,
        cpu="1",
        memory="1Gi",
        gpus=0,
        pvc="sft-workspace",
        mount_path=str(folder),
        folder=str(folder / "logs"),
    )
    return replace(plain, **changes)


def begin(wanted: TrainJob, folder: Path, seen: Seen, access: Access = ACCESS) -> tuple[Cluster, str]:
    there = connect(access, seen.lines.append)
    prepare = lambda: (folder / "finished.json").unlink(missing_ok=True)  # noqa: E731
    return there, job.find_or_create(there, wanted, logs=folder, prepare=prepare, display=seen.display())


def stay(
    wanted: TrainJob,
    folder: Path,
    seen: Seen,
    start_timeout_seconds: int | None = None,
    access: Access = ACCESS,
) -> str:
    """Begins a job and stays to its end; its name."""
    there, name = begin(wanted, folder, seen, access)
    one = JobWatcher(
        there,
        wanted,
        name,
        logs=folder,
        start_timeout_seconds=start_timeout_seconds,
        display=seen.display(),
    )
    one.watch()
    return name
