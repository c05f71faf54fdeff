"""Owns how several processes share one evaluation: each answers a part, and finds the others' answers among those kept.

The first process starts the others, waits for what they answer, and makes the scores from all of it, as if it had
answered alone. Parts are dealt by what is asked, never by what is known already: a process that begins later must deal
alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from sft.adapters.os.child import PARENT_PID
from sft.adapters.os.process import child_error, describe_exit, tail
from sft.errors import StageError
from sft.files import write_json

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """One process's part.

    Attributes:
        index: Which process it is; 0 is the one that makes the scores.
        num: All processes.
    """

    index: int = 0
    num: int = 1

    def of(self, batches: Iterable[Sequence[T]]) -> list[T]:
        """Return what this process answers: whole batches, so that each is computed as in one process alone."""
        return [item for place, batch in enumerate(batches) if place % self.num == self.index for item in batch]

    def take_cores(self) -> None:
        """Give this process its part of the cores: torch's threads would otherwise be as many in each."""
        import torch

        if self.num > 1 and not torch.cuda.is_available():
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            torch.set_num_threads(max(1, cores // self.num))


ALONE = Share()
"""All of it."""


@contextmanager
def helpers(module: str, request: Mapping[str, Any]) -> Iterator[Callable[[], bool]]:
    """Start the other processes of an evaluation on the same request, and end them with the block.

    Args:
        module: Dotted name of the module that this process runs (`sft.adapters.os.child.main`).
        request: Its request: ``share`` with the fields of `Share`, ``devices`` with a GPU's id for each process (empty
            on a CPU), ``progress``, beside which each gets a folder.

    Yields:
        A function that returns whether one of them still works, and raises if one has failed.
    """
    share = Share(**request["share"])
    processes: dict[Path, subprocess.Popen[bytes]] = {}

    def are_at_work() -> bool:
        for folder, process in processes.items():
            if process.poll():
                raise _error(folder, process.returncode)
        return any(process.returncode is None for process in processes.values())

    try:
        for index in range(1, share.num):
            folder = Path(request["progress"]).with_name(f"process-{index}")
            processes[folder] = _start(module, request, Share(index, share.num), folder)
        yield are_at_work
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def _start(module: str, request: Mapping[str, Any], share: Share, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "error.json").unlink(missing_ok=True)
    own = {"share": asdict(share), "out": str(folder), "progress": str(folder / "progress.json"), "log_samples": False}
    write_json(folder / "request.json", {**request, **own})
    environment = {**os.environ, "PYTHONSAFEPATH": "1", PARENT_PID: str(os.getpid())}
    if request["devices"]:
        environment["CUDA_VISIBLE_DEVICES"] = request["devices"][share.index]
    with (folder / "log.txt").open("ab") as log:  # of this process's group, which is ended as a whole
        argv = [sys.executable, "-P", "-m", module, str(folder)]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


def _error(folder: Path, status: int) -> StageError:
    """Return why a process failed, as it says itself."""
    what, log = f"evaluating in {folder.name}", folder / "log.txt"
    if (folder / "error.json").exists():
        return child_error(json.loads((folder / "error.json").read_text(encoding="utf-8")), what=what, log=log)
    return StageError(f"{what} {describe_exit(status)} and left no error; its last lines:\n{tail(log)}", log=log)
