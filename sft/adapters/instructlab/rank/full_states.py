"""Owns full states: weights, optimizer, scheduler and random states of every rank, from which a stopped run resumes.

Upstream writes them in place, never removes old ones and loads the newest, complete or not (trap 13,
utils.py:861,916@0.16.2). Here a state is written to a temporary folder, hashed, synced to the disk and then renamed; it
is checked before it is loaded. Not covered: a disk that loses what it reported as synced.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft.adapters.os.process import is_no_space
from sft.errors import StageError
from sft.files import list_files, sha256_file, sync, write_json

log = logging.getLogger(__name__)

_FACTS = "state.json"
_WRITER = ("PytorchStreamWriter failed", "file write failed", "iostream error", "fail at inline_container.cc")
"""How torch's writer, which does not say why, tells that a file could not be written: as a rule the disk is full."""


@dataclass(frozen=True)
class Position:
    """A place in the training, between two optimizer steps.

    Attributes:
        step: Optimizer steps since the start of the run.
        epoch: Index of the current epoch, from 0.
        steps_in_epoch: Optimizer steps in that epoch.
        samples_seen: Samples since the start of the run.
    """

    step: int = 0
    epoch: int = 0
    steps_in_epoch: int = 0
    samples_seen: int = 0


class FullStates:
    """The full states of a run, each in ``<root>/step_<N>``. Every method is called by all ranks together."""

    def __init__(self, root: Path, *, keep: int) -> None:
        self._root = root
        self._keep = keep

    def save(self, accelerator: Any, position: Position) -> None:
        """Publish a state once every rank has written its part, and remove the oldest beyond `keep`.

        Raises:
            StageError: It can't be written: no space, no permission. Earlier states stay.
        """
        import torch.distributed as dist

        partial, final = self._root / f".step_{position.step}", self._root / f"step_{position.step}"
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        dist.barrier()
        try:
            accelerator.save_state(output_dir=partial)
        except Exception as error:  # out of memory, or a lost connection, is something else and stays what it is
            if not isinstance(error, OSError) and not _is_of_the_disk(str(error)):
                raise
            free = shutil.disk_usage(self._root).free >> 20
            space = f"free space ({free} MiB are free at {self._root})"
            fix = space if _is_of_the_disk(str(error)) else f"let this run write to {self._root}"
            raise StageError(
                f"the full state of step {position.step} can't be written: {error}",
                fix=f"{fix}; the state before it is complete",
            ) from error
        dist.barrier()
        if dist.get_rank() == 0:
            names = list_files(partial)
            digests = {name: sha256_file(partial / name) for name in names}
            write_json(partial / _FACTS, {"position": asdict(position), "files": digests})
            for name in (*names, _FACTS):
                sync(partial / name)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync(self._root)
            for older in self._newest_first()[self._keep :]:
                shutil.rmtree(older)
        dist.barrier()

    def load(self, accelerator: Any) -> tuple[Position, list[str]]:
        """Load the newest state that is undamaged.

        Returns:
            Its position (the start, if there is none), and a line for each damaged state that was skipped.
        """
        import torch.distributed as dist

        choice: list[Any] = [None, None]
        if dist.get_rank() == 0:
            choice = list(self._newest_undamaged())
        dist.broadcast_object_list(choice)
        state, damaged = choice
        if state is None:
            return Position(), damaged
        accelerator.load_state(state)
        facts = json.loads((Path(state) / _FACTS).read_text(encoding="utf-8"))
        return Position(**facts["position"]), damaged

    def _newest_undamaged(self) -> tuple[str | None, list[str]]:
        """Return the newest state whose files have their digests, and a line for each that was removed."""
        damaged: list[str] = []
        for state in self._newest_first():
            damage = _damage(state)
            if damage is None:
                return str(state), damaged
            damaged.append(f"full state {state.name} is damaged: {damage}")
            log.warning(damaged[-1])
            shutil.rmtree(state)
        return None, damaged

    def _newest_first(self) -> list[Path]:
        return sorted(self._root.glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")), reverse=True)


def _is_of_the_disk(message: str) -> bool:
    return is_no_space(message) or any(words in message for words in _WRITER)


def _damage(state: Path) -> str | None:
    """Return what is wrong with a state; None if nothing is."""
    try:
        expected = json.loads((state / _FACTS).read_text(encoding="utf-8"))["files"]
    except (FileNotFoundError, ValueError, KeyError):
        return f"{_FACTS} can't be read"
    for name, sha256 in expected.items():
        if not (state / name).is_file():
            return f"{name} is missing"
        if sha256_file(state / name) != sha256:
            return f"{name} has changed since it was saved"
    return None
