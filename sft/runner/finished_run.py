"""A run that has ended, with what it made: for what is done with its model afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sft import record
from sft.artifacts import Artifact, ModelPackage
from sft.errors import DataError
from sft.runner.dispatch import pick
from sft.runner.reregister import check_unchanged
from sft.store import Store


@dataclass(frozen=True)
class FinishedRun:
    """A run whose model is there, and is what was recorded.

    Attributes:
        folder: The run's.
        record: Its ``run.json``.
        artifacts: What its steps made, by their names.
    """

    folder: Path
    record: record.RunRecord
    artifacts: Mapping[str, Artifact]

    @property
    def package(self) -> ModelPackage:
        return pick(self.artifacts, "package", ModelPackage)


@contextmanager
def finished_run(folder: Path) -> Iterator[FinishedRun]:
    """Give a finished run, of which nothing is pruned until the block ends.

    Raises:
        DataError: There is no run in the folder, or it has made no model.
        VerificationError: The model is no longer what the run has made.
    """
    run_record = record.load(folder)
    if run_record is None:
        raise DataError(f"{folder}: no {record.NAME} there", fix=record.nearest_run(folder, "a run's folder"))
    store = Store(folder.parent / "store")
    store.open()
    with store.in_use():
        done = {step.name: step for step in run_record.steps if step.key and step.status == "done"}
        entries = {name: store.find(name.partition(":")[0], step.key or "") for name, step in done.items()}
        artifacts = {name: entry.artifact for name, entry in entries.items() if entry}
        gone = [name for name in done if name not in artifacts]
        if gone or "package" not in done:
            what = f"its {' and '.join(gone)} is gone from the store" if gone else "it has made no model"
            raise DataError(f"{folder}: {what}", fix="finish the run first: its command goes on")
        run = FinishedRun(folder, run_record, artifacts)
        check_unchanged(run.package, run_record)
        yield run
