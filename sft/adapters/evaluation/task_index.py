"""Owns finding lm-eval's tasks in the text of their YAML files.

lm-eval's own index parses 14,000 of them in 7 to 10 s, and importing lm-eval takes seconds more. Here only the folders
are found; lm-eval's `TaskManager` then reads those folders, and decides.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sft.files import read_document

_NAMES = re.compile(
    rb"^[\"']?(task|group|tag)[\"']?\s*:[ \t]*(?:\n(?:[ \t]*#[^\n]*\n)*((?:[ \t]*-[^\n]*\n?)+)|([^\n]+))", re.MULTILINE
)
LARGEST_BYTES = 1 << 20
"""Of a task's YAML; what is larger is data."""
_ITEM = re.compile(rb"^[ \t]*-[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)


def folders(names: Iterable[str]) -> dict[str, set[Path]]:
    """Return lm-eval's folders that define a task, group or tag of these names, without names that nothing defines.

    Most tasks and groups are named like their file and are looked up there; all files are read only for the others.
    """
    builtin = root()
    matches: dict[str, set[Path]] = {}
    for name in set(names):
        likely = [file for pattern in (f"*/{name}.yaml", f"*/*/_{name}.yaml") for file in builtin.glob(pattern)]
        if tops := {_top(file, builtin) for file in likely if name in _names(file, tags=False)}:
            matches[name] = tops
    if wanted := set(names) - matches.keys():
        for file in builtin.rglob("*.yaml"):
            for name in wanted & _names(file):
                matches.setdefault(name, set()).add(_top(file, builtin))
    return matches


def own(folder: Path) -> set[str]:
    """Return the names that a recipe's own folder defines."""
    return {name for file in folder.rglob("*.yaml") for name in _names(file)}


def closest(name: str, include_path: Path | None) -> list[str]:
    """Return the known names that are most similar to `name`."""
    known = {each for file in root().rglob("*.yaml") for each in _names(file)}
    return difflib.get_close_matches(name, sorted(known | (own(include_path) if include_path else set())), n=3)


def names_in(file: Path) -> set[str]:
    """Return the names of tasks, groups and tags that a file mentions as its own."""
    return _names(file)


def root() -> Path:
    """Return the folder of lm-eval's own tasks."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("lm_eval")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def _top(file: Path, root: Path) -> Path:
    return root / file.relative_to(root).parts[0]


def _names(file: Path, *, tags: bool = True) -> set[str]:
    return set(_names_in(read_document(file, LARGEST_BYTES), tags))


def _names_in(text: bytes, tags: bool) -> Iterator[str]:
    for key, listed, single in _NAMES.findall(text):
        if key == b"task" and listed:
            continue  # the members of a group
        if key != b"tag" or tags:
            yield from (item.decode(errors="replace") for item in _ITEM.findall(listed or b"- " + single))
