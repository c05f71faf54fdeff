"""Owns full states: weights, optimizer, scheduler and random states of every rank, from which a stopped run resumes.

Upstream writes them through rank 0, in place, never removes old ones and loads the newest, complete or not, whole on
every rank (trap 13, utils.py:861,916@0.16.2). Here each rank writes, hashes and reads its own part; a state is
written to a temporary folder, synced to the disk and then renamed; it is checked before it is loaded, on as many ranks
as there are now. Not covered: a disk that loses what it reported as synced.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.layout import METRICS, STATE_FACTS, STATE_FORMAT, STATE_PREFIX
from sft.adapters.instructlab.rank import state_files
from sft.adapters.instructlab.rank.state_tensors import (
    StateTensors,
    check_names,
    random_name,
    random_states,
    restore_random_states,
    seed_new_rank,
)
from sft.adapters.os.process import is_no_space
from sft.errors import StageError
from sft.files import list_files, sha256_file, sync, write_json

log = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class Resumed:
    """Where a run continues.

    Attributes:
        position: The start, if there is no state.
        stretches: What the steps so far were trained on, as `FullStates` counts them; the last one is this run's.
        damaged: A line for each state that is not used.
        metrics: The rows of ``metrics.jsonl`` up to here.
    """

    position: Position
    stretches: list[dict[str, Any]]
    damaged: list[str]
    metrics: bytes


class FullStates:
    """The full states of a run, each in ``<root>/step_<N>``. Every method is called by all ranks together.

    Args:
        root: Their folder.
        keep: How many of the newest stay.
        state_id: Digest of what determines the order of the data and the model; a state of another one is not used.
        layout: What the run trains on, as plain data: another one begins another stretch.
        seed: Of the run, from which a rank that has no random states in a state gets some.
        metrics: The run's ``metrics.jsonl``, which a state holds a copy of.
    """

    def __init__(
        self, root: Path, *, keep: int, state_id: str, layout: Mapping[str, Any], seed: int, metrics: Path
    ) -> None:
        self._root = root
        self._keep = keep
        self._state_id = state_id
        self._layout = dict(layout)
        self._seed = seed
        self._metrics = metrics
        self.stretches: list[dict[str, Any]] = [{"from_step": 0, **self._layout}]

    def save(self, accelerator: Any, position: Position) -> None:
        """Publish a state once every rank has written its part, and remove the oldest beyond `keep`.

        Raises:
            StageError: A rank can't write it: no space, no permission. Earlier states stay.
        """
        import torch.distributed as dist

        rank, name = dist.get_rank(), f"{STATE_PREFIX}{position.step}"
        partial, final = self._root / f".{name}", self._root / name
        with self._translate_errors(position.step):
            if rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            dist.barrier()
            content = StateTensors(accelerator.model.model, accelerator.optimizer.optimizer)
            state_files.write({**content.tensors, **random_states(rank)}, partial)
            digests = _gather(_digests_of_rank(partial, rank))
            if rank == 0:
                if self._metrics.exists():
                    shutil.copyfile(self._metrics, partial / METRICS)
                    sync(partial / METRICS)
                    digests.append({METRICS: sha256_file(partial / METRICS)})
                facts = {
                    "format": STATE_FORMAT,
                    "state_id": self._state_id,
                    "position": asdict(position),
                    "stretches": self.stretches,
                    "num_ranks": dist.get_world_size(),
                    "scheduler": accelerator.lr_scheduler.state_dict(),
                    "files": {name: digest for part in digests for name, digest in sorted(part.items())},
                }
                write_json(partial / STATE_FACTS, facts)
                sync(partial / STATE_FACTS)
                sync(partial)
                shutil.rmtree(final, ignore_errors=True)
                partial.rename(final)
                sync(self._root)
                for older in self._newest_first()[self._keep :]:
                    shutil.rmtree(older)
        dist.barrier()

    @contextmanager
    def _translate_errors(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # out of memory, or a lost connection, is something else and stays what it is
            if not isinstance(error, OSError) and not _is_of_the_disk(str(error)):
                raise
            free = shutil.disk_usage(self._root).free >> 20
            space = f"free space ({free} MiB are free at {self._root})"
            fix = space if _is_of_the_disk(str(error)) else f"let this run write to {self._root}"
            raise StageError(
                f"the full state of step {step} can't be written: {error}",
                fix=f"{fix}; the state before it is complete",
            ) from error

    def load(self, accelerator: Any) -> Resumed:
        """Load the newest state that is undamaged.

        Raises:
            StageError: It is undamaged but holds another model.
        """
        import torch
        import torch.distributed as dist

        rank = dist.get_rank()
        state, damaged = self._newest_undamaged()
        if state is None:
            return Resumed(Position(), self.stretches, damaged, b"")
        facts = _facts(state)
        position = Position(**facts["position"])
        content = StateTensors(accelerator.model.model, accelerator.optimizer.optimizer)
        saved = state_files.read_metadata(state).state_dict_metadata
        check_names(content.tensors, saved)
        has_random_states = rank < facts["num_ranks"]
        own = torch.empty(saved[random_name(rank)].size if has_random_states else 0, dtype=torch.uint8)
        state_files.read({**content.tensors, **({random_name(rank): own} if has_random_states else {})}, state)
        content.restore()
        if has_random_states:
            restore_random_states(own)
        else:
            seed_new_rank(self._seed, rank, position.step)
        scheduler = accelerator.lr_scheduler
        scheduler.load_state_dict(facts["scheduler"])
        for group, rate in zip(accelerator.optimizer.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        self.stretches = [*facts["stretches"]]
        if {name: value for name, value in self.stretches[-1].items() if name != "from_step"} != self._layout:
            self.stretches.append({"from_step": position.step, **self._layout})
        metrics = (state / METRICS).read_bytes() if METRICS in facts["files"] else b""
        return Resumed(position, self.stretches, damaged, metrics)

    def _newest_undamaged(self) -> tuple[Path | None, list[str]]:
        """Return the newest state whose files have their digests, and a line for each that is not used."""
        import torch.distributed as dist

        names: list[Any] = [[]]
        if dist.get_rank() == 0:
            for cut_short in self._root.glob(f".{STATE_PREFIX}*"):
                shutil.rmtree(cut_short)
            names = [[state.name for state in self._newest_first()]]
        dist.broadcast_object_list(names)
        unused: list[str] = []
        for name in names[0]:
            state = self._root / name
            damages = [damage for damage in _gather(self._damage(state)) if damage]
            if not damages:
                return state, unused
            unused.append(f"full state {name} is damaged: {damages[0]}")
            dist.barrier()
            if dist.get_rank() == 0:
                log.warning(unused[-1])
                shutil.rmtree(state)
        return None, unused

    def _damage(self, state: Path) -> str | None:
        """Return what is wrong with a state, as far as this rank looks; None if nothing is."""
        import torch.distributed as dist

        try:
            facts = _facts(state)
            files, state_id = facts["files"], facts["state_id"]
            if facts["format"] != STATE_FORMAT:
                return "another version of sft wrote it"
        except (OSError, ValueError, KeyError, TypeError):
            return f"{STATE_FACTS} can't be read"
        if state_id != self._state_id:
            return "it is of another training"
        own = dict(sorted(files.items())[dist.get_rank() :: dist.get_world_size()])
        if (damage := damage_of(state, own)) or state_files.METADATA not in own:
            return damage
        try:
            state_files.read_metadata(state)
        except StageError as error:
            return error.message
        return None

    def _newest_first(self) -> list[Path]:
        states = self._root.glob(f"{STATE_PREFIX}*")
        return sorted(states, key=lambda path: int(path.name.removeprefix(STATE_PREFIX)), reverse=True)


def _facts(state: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((state / STATE_FACTS).read_text(encoding="utf-8"))
    return facts


def _digests_of_rank(folder: Path, rank: int) -> dict[str, str]:
    """Return sha256 by name of the files that a rank has written; torch names them by rank, and 0 writes metadata."""
    own = [name for name in list_files(folder) if name.startswith(f"__{rank}_") or (rank == 0 and name[:2] != "__")]
    return {name: sha256_file(folder / name) for name in own}


def _gather(value: Any) -> list[Any]:
    """Return each rank's value, by rank."""
    import torch.distributed as dist

    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _is_of_the_disk(message: str) -> bool:
    return is_no_space(message) or any(words in message for words in _WRITER)


def damage_of(state: Path, files: Mapping[str, str]) -> str | None:
    """Return which of a state's files is missing or has another sha256; None if none."""
    for name, sha256 in files.items():
        if not (state / name).is_file():
            return f"{name} is missing"
        if sha256_file(state / name) != sha256:
            return f"{name} has changed since it was saved"
    return None
