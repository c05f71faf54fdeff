"""Which models a run has left: the tuned one and the one it began as, found in the store of its run root."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from sft import record
from sft.adapters import hub
from sft.artifacts import Artifact, ModelArtifact, ModelPackage
from sft.config.ways_out import value_of
from sft.errors import DataError
from sft.runner.run_lock import is_running
from sft.stages import model_checks
from sft.stages.select import trained_checkpoint
from sft.store import Store


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A model that somebody named by its run, its folder or its name on the hub.

    Attributes:
        folder: In Hugging Face layout, whole: a LoRA run's adapter is merged there.
        run: The run that made it; None if a model was named.
        base: Folder of the model that the run began with; None without a run, or where it is not there any more.
        trusts_code: Whether the run let code that comes with the model run.
        notes: What a person should know of it.
    """

    folder: Path
    run: Path | None = None
    base: Path | None = None
    trusts_code: bool = False
    notes: tuple[str, ...] = ()


def find_model(name: str, *, needs_base: bool = False) -> FoundModel:
    """Return the model of a run's folder, of a model's folder, or of the hub, which is fetched if need be.

    Args:
        name: A run's folder, a model's folder, or ``org/name``.
        needs_base: Whether the run's base model is needed too.

    Raises:
        DataError: There is nothing of that name, the run has no model, or its base model is needed and not there.
        StageError: What is there is no whole model that may be loaded.
    """
    path = Path(name).expanduser()
    if (path / record.NAME).is_file():
        found = _of_run(path, needs_base=needs_base)
        model_checks.check_folder(found.folder, str(path))
        return found
    if needs_base and not _is_missing_run(path):
        fix = "give the run's folder, such as runs/my-1a2b3c4d"
        raise DataError(f"{name}: only a run has a base model to compare with", fix=fix)
    is_path = path.is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1 or _is_missing_run(path)
    if path.is_dir():
        folder = path / "model" if not (path / "config.json").is_file() and (path / "model").is_dir() else path
    elif is_path or hub.parse(name) is None:
        fix = record.nearest_run(path, "a run's folder, a model's folder, or a hub id: org/name")
        raise DataError(f"{name}: no such folder", fix=fix)
    else:
        folder = hub.fetch_model(name, None)
    model_checks.check_folder(folder, name, is_to_be_trained=False)
    return FoundModel(folder=folder)


def _is_missing_run(path: Path) -> bool:
    """Return whether nothing is there and runs lie beside it, so that no model of the hub was meant."""
    return not path.exists() and path.name != str(path) and record.is_beside_runs(path)


def artifacts_of(folder: Path, run_record: record.RunRecord) -> dict[str, Artifact]:
    """Return what the steps of a run have made and what is still in the store beside its folder, by step.

    Raises:
        StoreError: Something there is damaged.
    """
    store = Store(folder.absolute().parent / "store")
    made = ((note.name, store.find(note.name.partition(":")[0], note.key)) for note in run_record.steps if note.key)
    return {name: entry.artifact for name, entry in made if entry}


def _of_run(path: Path, *, needs_base: bool) -> FoundModel:
    run_record = record.load(path)
    if run_record is None:
        raise DataError(f"{path}: {record.NAME} can't be read by this version of sft", fix="repeat the run")
    artifacts = artifacts_of(path, run_record)
    package, checkpoint = artifacts.get("package"), trained_checkpoint(artifacts)
    trusts_code = value_of(run_record.config, "model.trust_remote_code") is True
    base = _base(artifacts.get("model"))
    if needs_base and base is None:
        raise DataError(f"{path}: its base model is not there any more", fix="leave --base out, or repeat the run")
    if isinstance(package, ModelPackage):
        return FoundModel(folder=package.model_dir, run=path, base=base, trusts_code=trusts_code)
    if checkpoint is not None:
        note = f"{path}: the run is {_state(path, run_record)}; this is the model as it was trained, not packaged"
        return FoundModel(folder=checkpoint.model_dir, run=path, base=base, trusts_code=trusts_code, notes=(note,))
    raise DataError(f"{path}: no model: the run is {_state(path, run_record)}", fix=_fix(path, run_record))


def _base(artifact: Artifact | None) -> Path | None:
    if not isinstance(artifact, ModelArtifact):
        return None
    if not artifact.model_dir.is_dir() and artifact.revision:  # the hub's cache was emptied
        return hub.fetch_model(artifact.source, artifact.revision)
    return artifact.model_dir if artifact.model_dir.is_dir() else None


def _state(path: Path, run_record: record.RunRecord) -> str:
    """Return how far a run is, in words, with the error that ended it."""
    if run_record.status == "running":
        return "at work" if is_running(path) else "not finished: it was killed"
    failed = next((note for note in run_record.steps if note.error), None)
    if failed and failed.error:
        return f"{run_record.status} in {failed.name} ({failed.error.strip().splitlines()[0]})"
    if run_record.status == "done" and all(note.name != "train" for note in run_record.steps):
        return "done, but nothing was trained in it"
    return f"{run_record.status}, but its model is not in {path.absolute().parent / 'store'}"


def _fix(path: Path, run_record: record.RunRecord) -> str:
    if run_record.status == "running" and is_running(path):
        return "wait for it to end"
    return f"repeat its command, which continues: {shlex.join(run_record.command)}"
