"""A configuration of another project in; our settings, and what became of each of its own, out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sft.errors import ConfigError, Problem
from sft.importing import reading
from sft.importing.axolotl import AXOLOTL
from sft.importing.llama_factory import LLAMA_FACTORY
from sft.importing.rows import Found, Kind, Project, Source, missing, other, taken
from sft.importing.torchtune import TORCHTUNE
from sft.importing.trl import TRL
from sft.importing.values import MISSING, fitted

PROJECTS = (AXOLOTL, LLAMA_FACTORY, TORCHTUNE, TRL)
_NAMED = re.compile(r"[^a-z0-9_]")
_OF_AN_ENTRY = {"training.train_on": "all_turns"}
"""What a dataset takes that says nothing of a setting which holds for all of them here."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What became of one setting of the file, or of a default of its project.

    Attributes:
        key: As the file has it.
        value: What it says, or the default.
        found: What it is here.
        by_default: Whether the file says nothing of it.
    """

    key: str
    value: Any
    found: Found
    by_default: bool = False


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A configuration as settings of ours.

    Attributes:
        project: What it was of.
        told: Its settings, each once, and the defaults that were written.
        settings: Our keys and values.
        whence: Our keys and the settings that they are of.
    """

    project: Project
    told: tuple[Told, ...]
    settings: Mapping[str, Any]
    whence: Mapping[str, tuple[str, ...]]

    def of(self, kind: Kind) -> list[Told]:
        """Return one of the three lists."""
        return [one for one in self.told if one.found.kind is kind and not one.by_default]

    @property
    def defaults(self) -> list[Told]:
        """Return what the project does where the file says nothing: what is written for it, and what differs here."""
        rows = self.project.rows
        return [
            one
            for one in self.told
            if one.by_default
            and (one.found.settings or (one.found.kind is not Kind.TAKEN and rows[one.key].ours not in self.settings))
        ]

    @property
    def to_fill_in(self) -> list[str]:
        """Our keys that need a value of a person."""
        return [key for key, value in self.settings.items() if value == MISSING]


def convert(path: Path, project: str | None = None, devices: int = 1) -> Imported:
    """Return a file of another project as settings of ours.

    Args:
        path: The file.
        project: Whose it is; None = as its keys say.
        devices: How many ranks it was written for.

    Raises:
        ConfigError: It can't be read, is of no known project, or not of supervised fine-tuning.
    """
    content = reading.read(path)
    known = next((one for one in PROJECTS if one.name == project), None)
    known = known or reading.recognised(content, PROJECTS, path)
    said = list(reading.leaves(content, known))
    twice = next((key for key, count in Counter(key for key, _, _ in said).items() if count > 1), None)
    if twice:
        raise ConfigError(
            [Problem(key=f"{path}: {twice}", rule="is there nested and as a name with a dot: make it one")]
        )
    values = {key: value for key, _, value in said}
    defaults = {key: default for key, default in known.defaults.items() if not (key in known.nulls and key in values)}
    source = Source(values=values, defaults=defaults, devices=devices, folder=path.parent)
    try:
        source = known.prepare(source)
    except ValueError as error:
        raise ConfigError([Problem(key=str(path), rule=str(error))]) from error
    if key := known.refuses(source):
        value = source.get(key)
        rule = "sft does supervised fine-tuning, and this is another training" if value is not None else "is not there"
        raise ConfigError([Problem(key=f"{path}: {key}", value=None if value is None else str(value), rule=rule)])
    try:
        return _collected(known, source, said, content)
    except ValueError as error:
        raise ConfigError([Problem(key=str(path), rule=str(error))]) from error


def _collected(project: Project, source: Source, said: list[tuple[str, str, Any]], content: Any) -> Imported:
    settings: dict[str, Any] = {}
    whence: dict[str, tuple[str, ...]] = {}
    told = []
    for key, row, by_default in [*((k, r, False) for k, r, _ in said), *((k, k, True) for k in _unsaid(source, said))]:
        value = source.get(key)
        place = _place(key, project, content)
        here = source.at(*place) if place else source
        found = _bounded(_read(project, row, value, here))
        clash = [ours for ours, new in found.settings.items() if settings.get(ours, new) != new]
        if clash and by_default:
            continue
        if clash:
            rule = f"contradicts {', '.join(whence[clash[0]])}, by which {clash[0]} is set"
            kept = {ours: new for ours, new in found.settings.items() if ours not in clash}
            found = other(kept, f"{clash[0]} {rule}") if kept else missing(rule)
        for ours, new in found.settings.items():
            settings[ours] = new
            whence[ours] = (*whence.get(ours, ()), key)
        told.append(Told(key=key, value=value, found=found, by_default=by_default))
    for needed in ("model.name_or_path", "dataset.uri"):
        if needed not in settings and not (
            needed == "dataset.uri" and any(k.startswith("dataset.sources.") for k in settings)
        ):
            settings[needed] = MISSING
    told = _held_by_all(told, project, content)
    return Imported(project=project, told=tuple(told), settings=settings, whence=whence)


def _held_by_all(told: list[Told], project: Project, content: Any) -> list[Told]:
    """Say where what one dataset sets holds for others here that say something else there, or nothing."""
    entries = content.get(project.datasets) if project.datasets else None
    if not isinstance(entries, list):
        return told
    places = {one.key: _entry(one.key, project) for one in told}
    said: dict[str, dict[int | None, Any]] = {}
    raw = {places[one.key] for one in told if "text" in one.found.settings.values() and _sets_format(one)}
    for one in told:
        for ours, value in one.found.settings.items():
            said.setdefault(ours, {})[places[one.key]] = value
    numbers = [number for number in range(len(entries)) if number not in raw]

    def with_others(one: Told) -> Told:
        for ours, value in one.found.settings.items():
            if places[one.key] is None or ours.startswith("dataset.sources."):
                continue
            default = said[ours].get(None, _OF_AN_ENTRY.get(ours))
            others = {number: said[ours].get(number, default) for number in numbers}
            if names := [_name(entries, number) for number, theirs in others.items() if theirs != value]:
                note = "; ".join(filter(None, [one.found.note, f"holds for all sources, {', '.join(names)} too"]))
                return replace(one, found=replace(one.found, kind=Kind.DIFFERS, note=note))
        return one

    return list(map(with_others, told)) if len(entries) > 1 else told


def _sets_format(one: Told) -> bool:
    return any(ours.endswith(".format") for ours in one.found.settings)


def _entry(key: str, project: Project) -> int | None:
    """Return the number of the entry of a list of datasets that a key is in; None if it is in none."""
    found = re.match(rf"{project.datasets}\[([0-9]+)\]", key)
    return int(found[1]) if found else None


def _unsaid(source: Source, said: list[tuple[str, str, Any]]) -> Iterator[str]:
    keys = {key for key, _, value in said if value is not None}
    yield from (key for key in source.defaults if key not in keys)


def _place(key: str, project: Project, content: Any) -> tuple[Mapping[str, Any], str] | None:
    """Return the entry of a list of datasets that a key is in, and what our keys of it begin with."""
    if not project.datasets or not re.match(rf"{project.datasets}[.\[]", key):
        return None
    entries = content[project.datasets]
    if isinstance(entries, dict):
        return _flat(entries), "dataset."
    number = int(key[len(project.datasets) + 1 :].partition("]")[0])
    return _flat(entries[number]), "dataset." if len(entries) == 1 else f"dataset.sources.{_name(entries, number)}."


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}


def _name(entries: list[Mapping[str, Any]], number: int) -> str:
    """Return a name for an entry, by what it names as its place; with its number where another has the same."""
    names: list[str] = []
    for entry in entries:
        where = str(entry.get("path") or entry.get("source") or "data").rstrip("/").rpartition("/")[2]
        short = _NAMED.sub("_", where.lower())[:50].strip("_")
        names.append(short if re.match("[a-z]", short) else f"data_{short}".rstrip("_"))
    if names.count(names[number]) == 1:
        return names[number]
    name = f"{names[number]}_{number + 1}"
    while name in names:
        name += "_"
    return name


def _read(project: Project, row: str, value: Any, source: Source) -> Found:
    if row not in project.rows and not (value is None and any(one.startswith(f"{row}.") for one in project.rows)):
        near = get_close_matches(row, list(project.rows), n=1, cutoff=0.8)
        meant = f"; is {near[0].replace('[]', '')} meant?" if near else ""
        return missing(f"not a setting of {project.title} that sft knows{meant}")
    if value is None:
        return other({}, project.nulls[row]) if row in project.nulls else taken({}, "null")
    return project.rows[row].read(value, source)


def _bounded(found: Found) -> Found:
    """Return what was found with values of our types; what does not fit stands in the list of what is not there."""
    try:
        return replace(found, settings={key: fitted(key, value) for key, value in found.settings.items()})
    except ValueError as error:
        return missing(f"not taken: {error}")
