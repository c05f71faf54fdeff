"""Owns the SQLite file of the registry without a server: making it, and asking it without importing MLflow (3 s)."""

from __future__ import annotations

import contextlib
import glob
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sft.errors import StageError

DATABASE, ARTIFACTS = "mlflow.db", "mlflow-artifacts"
"""Of the registry without a server, in the run root."""
_SCHEME = "sqlite:///"
_DELETED = "Deleted_Internal"
"""Stage of a version that somebody has deleted (mlflow/entities/model_registry/model_version_stages.py:9@3.17.2)."""
_VERSION = """
    select count(*) from model_versions v join model_version_tags t on t.name = v.name and t.version = v.version
    where v.name = ? and v.version = ? and v.current_stage is not ? and t.key = ? and t.value = ?
"""


def database_of(address: str) -> Path | None:
    """Return the file of a tracking URI; None if it names no SQLite file."""
    return Path(address.removeprefix(_SCHEME)) if address.startswith(_SCHEME) else None


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Lock a database and create it: two registrations at once would both do so, or both miss the other's digest."""
    from filelock import FileLock

    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        if not database.exists():
            _create(database)
        yield


def _create(database: Path) -> None:
    """Create a SQLite file that has all its tables or does not exist.

    MLflow makes them with a hundred migrations, each committed by itself, and can't go on after a kill in between.
    """
    from mlflow import MlflowClient

    new = database.with_name(f"{database.name}.new")
    for leftover in database.parent.glob(f"{glob.escape(new.name)}*"):  # SQLite's own journal, too
        leftover.unlink()
    client = MlflowClient(f"{_SCHEME}{new}", f"{_SCHEME}{new}")
    client.get_experiment_by_name("")  # each of the two stores makes what it lacks
    client.search_registered_models(max_results=1)
    new.replace(database)


def has_version(database: Path, name: str, version: str, *, tag: tuple[str, str]) -> bool:
    """Return whether a version is there that nobody has deleted, with a tag.

    Raises:
        StageError: The file is no database of MLflow, or can't be read.
    """
    if not database.is_file():
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            [(count,)] = connection.execute(_VERSION, (name, int(version), _DELETED, *tag))
    except sqlite3.Error as error:
        raise StageError(
            f"MLflow's {database} can't be read: {error}",
            fix=f"`mlflow db upgrade {_SCHEME}{database}` brings it to the version of MLflow that is installed",
        ) from error
    return bool(count)
