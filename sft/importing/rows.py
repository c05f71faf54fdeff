"""What a setting of another project is here: a row of its table, and the ways in which a row reads a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any


class Kind(Enum):
    """In which of the three lists a setting stands."""

    TAKEN = "taken"
    DIFFERS = "differs"
    ABSENT = "absent"


@dataclass(frozen=True)
class Found:
    """What one setting of the file becomes.

    Attributes:
        settings: Our keys and the values that they get.
        note: What is to be known of it.
    """

    kind: Kind
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A configuration of another project.

    Attributes:
        values: What it says, by dotted key; items of a list have their place in it (`datasets[0].path`).
        defaults: What the project takes where it says nothing.
        devices: How many ranks it was written for.
        folder: Where the file lies.
        item: The entry of a list of datasets that is being read, by key.
        prefix: What our keys of that entry begin with.
        validated_sets: Our names of the sets whose loss the project measures while it trains.
    """

    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    devices: int = 1
    folder: Path = Path()
    item: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = "dataset."
    validated_sets: tuple[str, ...] = ()

    def get(self, key: str) -> Any:
        """Return what holds for a key: what the file says, or the project's default; None if there is neither."""
        said = self.values.get(key)
        return self.defaults.get(key) if said is None else said

    def number(self, key: str) -> float | None:
        """Return what holds for a key as a number; None where it is none."""
        return as_number(self.get(key))

    def has(self, prefix: str) -> bool:
        """Return whether the file says anything but null of a key, or of one beneath it."""
        below = (f"{prefix}.", f"{prefix}[")
        return any(value is not None and (key == prefix or key.startswith(below)) for key, value in self.values.items())

    def at(self, item: Mapping[str, Any], prefix: str) -> Source:
        """Return the same, to read an entry of a list of datasets."""
        return replace(self, item=item, prefix=prefix)


Reader = Callable[[Any, Source], Found]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting of a project.

    Attributes:
        kind: What it is as a rule; a value may be an exception.
        ours: Our key, or keys; empty where there is none.
        note: What is different, or the reason.
        read: Returns what a value becomes; a value is never null.
    """

    kind: Kind
    ours: str
    note: str
    read: Reader


Table = dict[str, Row]


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project whose configurations can be read.

    Attributes:
        name: As in ``--from``.
        title: As it spells itself.
        rows: Its settings. `datasets[].path` stands for each entry of a list.
        defaults: What it takes where a file says nothing, where that matters for the numbers.
        tells: Top-level keys that only it has.
        datasets: Key of its list of datasets, each entry a mapping; empty where it has none.
        nulls: Keys whose null is another thing than to say nothing, and what it is.
        prepare: Returns the values with names filled in that stand for others.
        refuses: Returns the key that says that a file is no supervised fine-tuning; None where it is.
    """

    name: str
    title: str
    rows: Table
    defaults: Mapping[str, Any]
    tells: frozenset[str]
    datasets: str = ""
    nulls: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Source], Source] = lambda source: source
    refuses: Callable[[Source], str | None] = lambda _: None


def as_number(value: Any) -> float | None:
    """Return a value as a number, also where YAML takes it for text (`2e-5`); None where it is none, or has no end."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def is_off(value: Any) -> bool:
    """Return whether a value says that something is not wanted."""
    return value in (None, False, "", "no", "none", "None", "off", "false", "False", 0, -1) or value in ([], {})


def named(value: Any, names: Mapping[str, Any]) -> bool:
    """Return whether a value is one of these names; a list or a mapping is none."""
    return isinstance(value, str) and value in names


def taken(settings: Mapping[str, Any] | None = None, note: str = "") -> Found:
    """Return what means the same here."""
    return Found(Kind.TAKEN, settings or {}, note)


def other(settings: Mapping[str, Any] | None = None, note: str = "") -> Found:
    """Return what means something else here."""
    return Found(Kind.DIFFERS, settings or {}, note)


def missing(note: str) -> Found:
    """Return what is not here."""
    return Found(Kind.ABSENT, {}, note)


def same(ours: str, note: str = "") -> Row:
    """Return the row of a setting that has another name here, and nothing else."""
    return Row(kind=Kind.TAKEN, ours=ours, note=note, read=lambda value, _: taken({ours: value}, note))


def positive(ours: str, note: str = "") -> Row:
    """Return the row of a setting whose 0 or -1 says that it is off."""

    def read(value: Any, _: Source) -> Found:
        return taken({}, "off") if is_off(value) else taken({ours: value}, note)

    return Row(kind=Kind.TAKEN, ours=ours, note=note, read=read)


def chosen(ours: str, choices: Mapping[Any, Any], note: str = "") -> Row:
    """Return the row of a setting with names for its values; a name that is not among `choices` is not here."""

    def read(value: Any, _: Source) -> Found:
        if not isinstance(value, str | bool | int) or value not in choices:
            return missing(f"{ours} has nothing like it" if ours else "there is no choice here")
        return taken({ours: choices[value]} if ours else {}, note)

    return Row(kind=Kind.TAKEN, ours=ours, note=note, read=read)


def by(ours: str, read: Reader, note: str = "", kind: Kind = Kind.TAKEN) -> Row:
    """Return a row with a reader of its own."""
    return Row(kind=kind, ours=ours, note=note, read=read)


def differs(note: str, ours: str = "") -> Row:
    """Return the row of a setting that needs no counterpart, for the reason that `note` has; nothing is set."""
    return Row(kind=Kind.DIFFERS, ours=ours, note=note, read=lambda _, __: other({}, note))


def absent(note: str) -> Row:
    """Return the row of what is not here; where it is off in the file nothing is missing."""

    def read(value: Any, _: Source) -> Found:
        return taken({}, "off, as here") if is_off(value) else missing(note)

    return Row(kind=Kind.ABSENT, ours="", note=note, read=read)


def each(keys: str, row: Row) -> Table:
    """Return the same row for several keys, which are parted by white space."""
    return dict.fromkeys(keys.split(), row)
