"""lm-eval's tasks and their data, found and loaded by lm-eval's own machinery."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sft.adapters.evaluation import task_index
from sft.adapters.patched import patched
from sft.errors import DataError
from sft.redaction import shortened

_SHOWN_CHARACTERS = 400


def set_up_log(level: str) -> None:
    """Send lm-eval's log, from a level on, to the log of this process."""
    from lm_eval.utils import setup_logging

    setup_logging(level)


def task_manager(names: list[str], include_path: str | None) -> Any:
    """Return a task manager for these tasks and the members of their groups, which reads only the folders they need.

    Raises:
        DataError: A task is unknown, or its data can't be read.
    """
    from lm_eval.tasks import TaskManager

    paths = [include_path] if include_path else []
    while True:
        manager = TaskManager(include_path=paths, include_defaults=False)
        missing = {absent for name in names for absent in _missing(manager.task_index, name)}
        matches = task_index.folders(missing)
        if unknown := sorted(missing - matches.keys()):
            fix = "run `lm-eval ls tasks` to list them"
            raise DataError(f"eval.tasks: there is no lm-eval task {', '.join(unknown)}", fix=fix)
        if not missing:
            break
        paths = [*sorted({str(folder) for folders in matches.values() for folder in folders} - {*paths}), *paths]
    load = manager.load

    def load_translating_errors(specs: Any) -> Any:
        try:
            return load(specs)
        except Exception as error:  # the datasets library and a task's own code may raise anything
            reason = shortened(" ".join(f"{type(error).__name__}: {error}".split()), _SHOWN_CHARACTERS)
            fix = "check that the hub can be reached, unless the data was downloaded before"
            raise DataError(f"eval.tasks: can't load {', '.join(names)}: {reason}", fix=fix) from error

    manager.load = load_translating_errors
    return manager


def load_tasks(names: list[str], include_path: str | None) -> dict[str, Any]:
    """Return the tasks of these names, and those of groups and tags, with their data.

    Raises:
        DataError: A task is unknown, or its data can't be read.
    """
    manager = task_manager(names, include_path)
    with data_files_beside_task():
        tasks: dict[str, Any] = manager.load(names)["tasks"]
    return tasks


def _missing(index: Mapping[str, Any], name: str) -> Iterator[str]:
    """Return a task's name, or those of a group's members, if they are not in the index."""
    if name not in index:
        yield name
        return
    members = (index[name].cfg or {}).get("task")
    for member in members if isinstance(members, list) else ():
        member_name = member if isinstance(member, str) else member.get("task") or member.get("group")
        if isinstance(member_name, str) and member_name != name and "group" not in member:
            yield from _missing(index, member_name)


@contextmanager
def data_files_beside_task() -> Iterator[None]:
    """Read relative `data_files` of a task from the folder of its YAML, until the block ends.

    tasks/_factory.py:_load_full_config@lm-eval 0.4.13 leaves them to `datasets`, which uses the working directory.
    """
    from lm_eval.tasks._factory import TaskFactory

    load_config = TaskFactory._load_full_config

    def load_config_beside(self: Any, entry: Any, overrides: Any = None) -> dict[str, Any]:
        config: dict[str, Any] = load_config(self, entry, overrides)
        options = config.get("dataset_kwargs") or {}
        if entry.yaml_path and "data_files" in options:
            files = _beside(Path(entry.yaml_path).parent, options["data_files"])
            config["dataset_kwargs"] = {**options, "data_files": files}
        return config

    with patched((TaskFactory, "_load_full_config", load_config_beside)):
        yield


def _beside(folder: Path, files: Any) -> Any:
    if isinstance(files, dict):
        return {split: _beside(folder, names) for split, names in files.items()}
    if isinstance(files, list):
        return [_beside(folder, name) for name in files]
    return files if "://" in files else os.fspath(folder / files)


@contextmanager
def templates_compiled_once() -> Iterator[None]:
    """Compile each Jinja template once: utils.py:623@lm-eval 0.4.13 compiles it again for each document."""
    from lm_eval.utils import env

    with patched((env, "from_string", functools.cache(env.from_string))):
        yield
