"""What there is to see of a run, finished, failed or at work. Reads; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from sft import record
from sft.artifacts import LOGS_NAME, Artifact
from sft.errors import DataError, StoreError
from sft.planning.stage_spec import stage_of
from sft.record import RunRecord, StepRecord
from sft.runner import RunResult, is_running
from sft.runner.run_models import artifacts_of
from sft.store import Store
from sft.sweep import records as sweeps

_Kind = TypeVar("_Kind", bound=Artifact)
_TRAIN = "train"


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run as a page shows it.

    Attributes:
        folder: The run's.
        artifacts: What its steps have made, by their names; of what is gone from the store, what the record says.
        is_at_work: Whether a process works on it now.
        error: That it ended with, if it is known beyond the record.
        damage: What can't be read in the store, so that only the record says what was made.
    """

    folder: Path
    record: RunRecord
    artifacts: Mapping[str, Artifact]
    is_at_work: bool = False
    error: str | None = None
    damage: str | None = None

    def made(self, name: str, kind: type[_Kind]) -> _Kind | None:
        """Return what a step made, None if it has not."""
        found = self.artifacts.get(name)
        return found if isinstance(found, kind) else None

    @property
    def state(self) -> str:
        """How far it is: ``done``, ``failed``, ``interrupted``, ``running``, or ``stopped`` where it was killed."""
        if self.record.status == "running" and not self.is_at_work:
            return "stopped"
        return self.record.status

    @property
    def why(self) -> str | None:
        """The error that ended it, if one did."""
        failed = next((f"{step.name}: {step.error}" for step in self.record.steps if step.error), None)
        return self.error or failed

    @property
    def training_logs(self) -> Path | None:
        """Where the ranks of its training write, or wrote; None if it has not begun to train."""
        if made := self.artifacts.get(_TRAIN):
            return made.root / LOGS_NAME
        step = next((step for step in self.record.steps if step.name == _TRAIN and step.key), None)
        store = Store(self.folder.absolute().parent / "store")
        return store.staging_path(_TRAIN, step.key or "") / LOGS_NAME if step else None


def of_result(result: RunResult, error: str | None) -> RunView:
    """Return the view of a run that has just ended.

    Args:
        result: What was made.
        error: That the run ended with.
    """
    return RunView(folder=result.folder, record=result.record, artifacts=result.artifacts, error=error)


def look(folder: Path) -> RunView:
    """Return the view of a run by its folder.

    Raises:
        DataError: There is no run in the folder.
    """
    run_record = record.load(folder)
    if run_record is None:
        if (folder / sweeps.NAME).is_file() or any(folder.glob(f"*/{record.NAME}")):
            raise DataError(f"{folder}: holds several runs", fix=f"one of them, or sft compare {folder} --html FILE")
        raise DataError(
            f"{folder}: no {record.NAME} that this version of sft reads",
            fix=record.nearest_run(folder, "a run's folder"),
        )
    in_store: dict[str, Artifact] = {}
    damage = None
    try:
        in_store = artifacts_of(folder, run_record)
    except StoreError as error:  # the record still says what it was
        damage = f"{error.message}: shown is what {record.NAME} says; sft verify {folder} tells what is wrong"
    recorded = {step.name: artifact for step in run_record.steps if (artifact := _recorded(step)) is not None}
    try:
        is_at_work = run_record.status == "running" and is_running(folder)
    except OSError as error:
        message = f"{folder}: not known whether it is at work ({error.strerror})"
        raise DataError(message, fix="read it as whoever runs it") from error
    return RunView(
        folder=folder, record=run_record, artifacts={**recorded, **in_store}, is_at_work=is_at_work, damage=damage
    )


def _recorded(step: StepRecord) -> Artifact | None:
    """Return an artifact as the record has it, whose files may be gone."""
    if not step.output or not step.path:
        return None
    facts = {**step.facts, "root": step.path, "digest": step.output}
    try:
        return msgspec.convert(facts, stage_of(step.name).artifact, dec_hook=lambda kind, value: kind(value))
    except (KeyError, msgspec.ValidationError):  # of another version of sft
        return None
