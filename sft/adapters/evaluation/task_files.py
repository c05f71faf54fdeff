"""Owns which local files a recipe's own tasks read besides those that the digest of their folder counts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sft.adapters.evaluation.task_scores import read_task
from sft.artifacts import LOGS_NAME, MANIFEST_NAME
from sft.files import list_files, sha256_file

_MOST_FILES = 10_000


def further(folder: Path) -> dict[str, str]:
    """Return the sha256 of each such file, data or a YAML, by its place beside the folder.

    An artifact's digest leaves out its manifest and its logs, and here they are files like any other. What is fetched
    from an address is not looked at: the evaluation notes a digest of the documents.

    Args:
        folder: With the tasks' YAMLs.

    Raises:
        ValueError: A task reads a folder of too many files to look at.
    """
    own = [folder / MANIFEST_NAME, *_files(folder / LOGS_NAME)]
    named = itertools.chain.from_iterable(map(_named, sorted(folder.rglob("*.yaml"))))
    found = sorted({file.resolve() for file in (*own, *named) if file.is_file()})
    inside = {(folder / name).resolve() for name in list_files(folder)} - {file.resolve() for file in own}
    return {
        f"read: {os.path.relpath(path, folder.resolve())}": sha256_file(path) for path in found if path not in inside
    }


def _named(task: Path) -> Iterator[Path]:
    """Yield the files that a task's YAML names: those that it includes, and its data."""
    included: set[Path] = set()
    try:
        config = read_task(task, included)
    except (OSError, yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError):
        return  # lm-eval says so in its own words
    yield from sorted(included)
    options = config.get("dataset_kwargs")
    options = options if isinstance(options, dict) else {}
    for name in _texts(options.get("data_files")):
        yield from _matching(task.parent / name)
    for name in _texts([config.get("dataset_path"), options.get("data_dir")]):
        yield from _files(Path(name))  # `datasets` looks from the working directory


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts of a text, a list or a mapping, without addresses."""
    if isinstance(value, str):
        if "://" not in value:
            yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _matching(pattern: Path) -> list[Path]:
    """Return the files that a name stands for, which may be a pattern."""
    whole = pattern.absolute()
    if not any(letter in pattern.name for letter in "*?["):
        return [whole]
    return sorted(Path(whole.anchor).glob(str(whole.relative_to(whole.anchor))))


def _files(folder: Path) -> list[Path]:
    """Return every file of a folder; nothing of what is none.

    Raises:
        ValueError: It has too many.
    """
    files = (path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else iter(())
    found = list(itertools.islice(files, _MOST_FILES + 1))
    if len(found) > _MOST_FILES:
        raise ValueError(f"reads the folder {folder}, which has more than {_MOST_FILES:,} files")
    return sorted(found)
