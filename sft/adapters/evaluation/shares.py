"""Owns how several processes share one evaluation: each answers a part, and finds the others' answers among those kept.

The first process starts the others, waits for what they answer, and makes the scores from all of it, as if it had
answered alone. Parts are dealt by what is asked, never by what is known already: a process that begins later must deal
alike.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from sft.adapters.os.cgroup import num_cpus
from sft.adapters.os.process import LOG, module_command, module_failure, started
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

        own = max(1, num_cpus() // self.num)
        if not torch.cuda.is_available() and own < torch.get_num_threads():
            torch.set_num_threads(own)


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
                raise module_failure(folder, process.returncode, what=f"evaluating in {folder.name}")
        return any(process.returncode is None for process in processes.values())

    with ExitStack() as stack:
        for index in range(1, share.num):
            folder = Path(request["progress"]).with_name(f"process-{index}")
            _ask(request, Share(index, share.num), folder)
            device = {"CUDA_VISIBLE_DEVICES": request["devices"][index]} if request["devices"] else {}
            process = started(module_command(module, folder), log=folder / LOG, env=device)
            processes[folder] = stack.enter_context(process)
        yield are_at_work


def _ask(request: Mapping[str, Any], share: Share, folder: Path) -> None:
    """Write the request of another process into its folder."""
    folder.mkdir(exist_ok=True)
    (folder / "error.json").unlink(missing_ok=True)
    own = {"share": asdict(share), "out": str(folder), "progress": str(folder / "progress.json"), "log_samples": False}
    write_json(folder / "request.json", {**request, **own})
