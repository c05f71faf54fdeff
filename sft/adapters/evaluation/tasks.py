"""lm-eval's tasks and their data, found and loaded by lm-eval's own machinery."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from sft.adapters.evaluation import task_index
from sft.errors import DataError

_SHOWN_CHARACTERS = 400


def set_up_log(level: str) -> None:
    """lm-eval's log goes where the child's goes, from a level on."""
    from lm_eval.utils import setup_logging

    setup_logging(level)


def task_manager(names: list[str], include_path: str | None) -> Any:
    """Knows the tasks asked for, and what their groups hold; of lm-eval's own, only the folders where those are.

    Raises:
        DataError: A task is unknown, or its data can't be read.
    """
    from lm_eval.tasks import TaskManager

    paths = [include_path] if include_path else []
    while True:
        manager = TaskManager(include_path=paths, include_defaults=False)
        missing = {why_too_large for name in names for why_too_large in _missing(manager.task_index, name)}
        found = task_index.folders(missing)
        if unknown := sorted(missing - found.keys()):
            fix = "`lm-eval ls tasks` lists them"
            raise DataError(f"eval.tasks: there is no lm-eval task {', '.join(unknown)}", fix=fix)
        if not missing:
            break
        paths = [*sorted({str(folder) for folders in found.values() for folder in folders} - {*paths}), *paths]
    load = manager.load

    def load_in_our_words(specs: Any) -> Any:
        try:
            return load(specs)
        except Exception as error:  # a dataset's library, and a task's own code, raise what they like
            what = " ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN_CHARACTERS]
            away = "data that was fetched before is taken from the cache; without it the hub must be within reach"
            raise DataError(f"eval.tasks: can't load {', '.join(names)}: {what}", fix=away) from error

    manager.load = load_in_our_words
    return manager


def load_tasks(names: list[str], include_path: str | None) -> dict[str, Any]:
    """Return the tasks of these names, and those of groups and tags, with their data.

    Raises:
        DataError: A task is unknown, or its data can't be read.
    """
    manager = task_manager(names, include_path)
    with data_files_beside_their_task():
        tasks: dict[str, Any] = manager.load(names)["tasks"]
    return tasks


def _missing(index: Mapping[str, Any], name: str) -> Iterator[str]:
    """What is not in the index of a task, and of a group's members."""
    if name not in index:
        yield name
        return
    members = (index[name].cfg or {}).get("task")
    for member in members if isinstance(members, list) else ():
        named = member if isinstance(member, str) else member.get("task") or member.get("group")
        if isinstance(named, str) and named != name and "group" not in member:
            yield from _missing(index, named)


@contextmanager
def data_files_beside_their_task() -> Iterator[None]:
    """Reads relative `data_files` of a task from the folder of its YAML, not from wherever the process runs.

    tasks/_factory.py:_load_full_config@lm-eval 0.4.13 leaves them to `datasets`, which takes the working directory.
    """
    from lm_eval.tasks._factory import TaskFactory

    load_config = TaskFactory._load_full_config

    def load_beside(self: Any, entry: Any, overrides: Any = None) -> dict[str, Any]:
        config: dict[str, Any] = load_config(self, entry, overrides)
        options = config.get("dataset_kwargs") or {}
        if entry.yaml_path and "data_files" in options:
            files = _beside(Path(entry.yaml_path).parent, options["data_files"])
            config["dataset_kwargs"] = {**options, "data_files": files}
        return config

    with mock.patch.object(TaskFactory, "_load_full_config", load_beside):
        yield


def _beside(folder: Path, files: Any) -> Any:
    if isinstance(files, dict):
        return {split: _beside(folder, names) for split, names in files.items()}
    if isinstance(files, list):
        return [_beside(folder, name) for name in files]
    return files if "://" in files else os.fspath(folder / files)


@contextmanager
def templates_compiled_once() -> Iterator[None]:
    """utils.py:623@lm-eval 0.4.13 compiles a task's Jinja templates again for each document."""
    from lm_eval.utils import env

    with mock.patch.object(env, "from_string", functools.cache(env.from_string)):
        yield
