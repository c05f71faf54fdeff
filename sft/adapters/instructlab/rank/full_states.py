"""Owns full states: weights, optimizer, scheduler and random states of every rank, from which a stopped run resumes.

Upstream writes them through rank 0, in place, never removes old ones and loads the newest, complete or not, whole on
every rank (trap 13, utils.py:861,916@0.16.2). Here each rank writes, hashes and reads its own part; a state is
written to a temporary folder, synced to the disk and then renamed, beside the training if that is asked for; it is
checked before it is loaded, on as many ranks as there are now. Not covered: a disk that loses what it reported as
synced.
"""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.layout import METRICS, STATE_FACTS, STATE_FORMAT, STATE_PREFIX
from sft.adapters.instructlab.rank import state_files
from sft.adapters.instructlab.rank.background import Background
from sft.adapters.instructlab.rank.selection import Selection
from sft.adapters.instructlab.rank.state_lookup import facts_of, gather, newest_first, newest_undamaged
from sft.adapters.instructlab.rank.state_tensors import (
    StateTensors,
    check_names,
    random_name,
    random_states,
    restore_random_states,
    seed_new_rank,
)
from sft.adapters.instructlab.settings import WorkerOptions
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
        in_background: Whether a state is written while the training goes on.
        selection: The choice among the steps, of which a state holds what there is so far.
    """

    def __init__(
        self,
        root: Path,
        *,
        keep: int,
        state_id: str,
        layout: Mapping[str, Any],
        seed: int,
        metrics: Path,
        in_background: bool = False,
        selection: Selection | None = None,
    ) -> None:
        self._root = root
        self._selection = selection or Selection(WorkerOptions())
        self._keep = keep
        self._state_id = state_id
        self._layout = dict(layout)
        self._seed = seed
        self._metrics = metrics
        self._background = Background() if in_background else None
        self.stretches: list[dict[str, Any]] = [{"from_step": 0, **self._layout}]

    def save(self, accelerator: Any, position: Position, *, wait: bool = False) -> None:
        """Publish a state once every rank has written its part, and remove the oldest beyond `keep`.

        In the background, the training may go on once every rank has a copy of its part; an earlier state is waited
        for. `check` and `finish` then raise what goes wrong.

        Args:
            accelerator: The library's.
            position: Of the training now.
            wait: Whether the state is published when this returns, whatever the background.

        Raises:
            StageError: A rank can't write it: no space, no permission. Earlier states stay.
        """
        import torch.distributed as dist

        self.finish()
        rank = dist.get_rank()
        content = StateTensors(accelerator.model.model, accelerator.optimizer.optimizer)
        tensors = {**content.tensors, **random_states(rank)}
        best, own_best = self._selection.tensors(content)
        facts = {
            "format": STATE_FORMAT,
            "state_id": self._state_id,
            "position": asdict(position),
            "stretches": self.stretches,
            "num_ranks": dist.get_world_size(),
            "scheduler": accelerator.lr_scheduler.state_dict(),
            **self._selection.facts(),
        }
        metrics = self._metrics.read_bytes() if rank == 0 and self._metrics.exists() else None
        if self._background is None or wait:
            self._write({**tensors, **best}, own_best, facts, metrics, None)
        else:
            copies, then = {**self._background.copy(tensors), **own_best}, copy.deepcopy(facts)
            self._background.start(lambda group: self._write({**tensors, **best}, copies, then, metrics, group))

    def _write(
        self,
        tensors: Mapping[str, Any],
        copies: Mapping[str, Any],
        facts: dict[str, Any],
        metrics: bytes | None,
        group: Any,
    ) -> None:
        import torch.distributed as dist

        rank, name = dist.get_rank(), f"{STATE_PREFIX}{facts['position']['step']}"
        partial, final = self._root / f".{name}", self._root / name
        with self._translate_errors(facts["position"]["step"]):
            if rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            dist.barrier(group)
            state_files.write(tensors, partial, copies=copies, group=group)
            digests = gather(_digests_of_rank(partial, rank), group)
            if rank == 0:
                if metrics is not None:
                    (partial / METRICS).write_bytes(metrics)
                    sync(partial / METRICS)
                    digests.append({METRICS: sha256_file(partial / METRICS)})
                files = {name: digest for part in digests for name, digest in sorted(part.items())}
                write_json(partial / STATE_FACTS, {**facts, "files": files})
                sync(partial / STATE_FACTS)
                sync(partial)
                shutil.rmtree(final, ignore_errors=True)
                partial.rename(final)
                sync(self._root)
                for older in newest_first(self._root)[self._keep :]:
                    shutil.rmtree(older)
        dist.barrier(group)

    def check(self) -> None:
        """Raise, as `save` does, if a state that is written in the background has failed."""
        if self._background is not None:
            self._background.check()

    def finish(self) -> None:
        """Wait until no state is being written.

        Raises:
            StageError: As `save`.
        """
        if self._background is not None:
            self._background.finish()

    def written_seconds(self) -> float | None:
        """Return what a state took that the background has published since the last call; None if there is none."""
        if self._background is None:
            return None
        seconds, self._background.seconds = self._background.seconds, None
        return seconds

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
        state, damaged = newest_undamaged(self._root, self._state_id)
        ranks_of_row = self._layout.get("context_parallel", 1)
        if state is None:
            if ranks_of_row > 1:  # ranks begin with the same random numbers, which a row would have once in each part
                seed_new_rank(self._seed, rank, 0)
            return Resumed(Position(), self.stretches, damaged, b"")
        facts = facts_of(state)
        position = Position(**facts["position"])
        content = StateTensors(accelerator.model.model, accelerator.optimizer.optimizer)
        saved = state_files.read_metadata(state).state_dict_metadata
        check_names(content.tensors, saved)
        shared_alike = facts["stretches"][-1].get("context_parallel", 1) == ranks_of_row
        has_random_states = shared_alike and rank < facts["num_ranks"]
        own = torch.empty(saved[random_name(rank)].size if has_random_states else 0, dtype=torch.uint8)
        best = self._selection.empty(facts, content)
        state_files.read({**content.tensors, **best, **({random_name(rank): own} if has_random_states else {})}, state)
        content.restore()
        self._selection.resume(facts, best)
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


def _digests_of_rank(folder: Path, rank: int) -> dict[str, str]:
    """Return sha256 by name of the files that a rank has written; torch names them by rank, and 0 writes metadata."""
    own = [name for name in list_files(folder) if name.startswith(f"__{rank}_") or (rank == 0 and name[:2] != "__")]
    return {name: sha256_file(folder / name) for name in own}


def _is_of_the_disk(message: str) -> bool:
    return is_no_space(message) or any(words in message for words in _WRITER)
