"""What a check of a run or a model has found, and the comparisons that it is made of: files, documents, accounts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from sft import self_hashed_json
from sft.artifacts import digest_of
from sft.config.ways_out import ways_out
from sft.files import inode, read_document, sha256_file
from sft.planning.stage_spec import STAGES

_KEY = re.compile("[0-9a-f]{20}")
_LONGEST_NAME = 255
"""Bytes of a file's name, of any file system that is in use."""
T = TypeVar("T")


class Step(msgspec.Struct):
    """What of a step of a record is checked."""

    name: str
    key: str | None
    inputs: dict[str, str]
    output: str | None
    seconds: float | None
    files: dict[str, str]
    facts: dict[str, Any]
    settings: dict[str, Any]


class CarriedRun(msgspec.Struct):
    """What of a record in ``sft.json`` is checked."""

    config: dict[str, Any]
    steps: list[Step]


class StepOfRun(Step):
    """What of a step of ``run.json`` is checked besides."""

    status: str
    path: str | None
    reused: bool


class Run(msgspec.Struct):
    """What of ``run.json`` is checked."""

    schema: int
    status: str
    command: list[str]
    cwd: str
    config: dict[str, Any]
    steps: list[StepOfRun]


class ModelFacts(msgspec.Struct):
    """``sft.json``."""

    record: CarriedRun
    record_digest: str
    files: dict[str, str]


@dataclass
class Verification:
    """What was found.

    Attributes:
        what: The folder, and what it is.
        digest: Of the model's folder, as a registry holds it; empty for a run that made none.
        num_files: Files that were hashed.
        problems: What is not as recorded, a line each.
        notes: What could not be checked.
    """

    what: str
    digest: str = ""
    num_files: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _hashed: dict[tuple[int, int], str] = field(default_factory=dict)

    def files(self, root: Path, recorded: Mapping[str, str], present: Iterable[str], *, may_link: bool = False) -> None:
        """Compare a folder's files with their recorded digests.

        Args:
            root: The folder.
            recorded: Digest by relative path.
            present: Relative paths of what is there (`entries`).
            may_link: Whether a file may be a link to another one, as in the hub's cache.
        """
        for name in sorted({*recorded} | {*present}):
            file = root / name
            if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                self.problems.append(f"{root}: its record names a file outside: {name}")
            elif "\0" in name or any(len(part.encode()) > _LONGEST_NAME for part in PurePosixPath(name).parts):
                self.problems.append(f"{root}: its record names what no file can be called: {name[:100]!r}")
            elif name not in recorded:
                self.problems.append(f"{file}: is not in the record")
            elif link := self._link(root, name, may_link=may_link):
                self.problems.append(f"{link}: became a link, to {link.readlink()}")
            elif not file.is_file():
                self.problems.append(f"{file}: is gone")
            elif (digest := self.hash(file)) != recorded[name]:
                self.problems.append(f"{file}: differs: its sha256 is {digest}, recorded is {recorded[name]}")

    @staticmethod
    def _link(root: Path, name: str, *, may_link: bool) -> Path | None:
        """Return the file or the folder on the way to it that is a link."""
        parts = [root / part for part in (PurePosixPath(name), *PurePosixPath(name).parents)][:-1]
        return next((path for path in parts[may_link:] if path.is_symlink()), None)

    def hash(self, file: Path) -> str:
        """Return a file's digest; one that is linked from several places is read once."""
        if (key := inode(file)) not in self._hashed:
            self._hashed[key] = sha256_file(file)
            self.num_files += 1
        return self._hashed[key]

    def unsealed(self, file: Path, kind: type[T]) -> dict[str, Any] | None:
        """Return the facts of a document with its own digest; None if it is not whole, or not what `kind` holds."""
        self.num_files += 1
        try:
            facts = self_hashed_json.load_checked(read_document(file))
            msgspec.convert(facts, kind)
        except (ValueError, RecursionError, OSError) as error:  # msgspec's ValidationError is a ValueError
            self.problems.append(f"{file}: {error}")
            return None
        steps = facts["steps"] if "steps" in facts else facts["record"]["steps"]
        if odd := next((step["name"] for step in steps if not _is_step(step)), None):
            self.problems.append(f"{file}: {odd} is no step of a run, or has no key")
            return None
        return facts

    def same(self, what: str, there: object, recorded: object) -> None:
        """Note a problem if two accounts of one thing differ."""
        if there != recorded:
            self.problems.append(f"{what} is not what the record says")


def _is_step(step: Mapping[str, Any]) -> bool:
    has_key = step["key"] is not None and _KEY.fullmatch(step["key"]) is not None
    return step["name"].partition(":")[0] in STAGES and (has_key or not step["output"])


def is_file(path: Path) -> bool:
    """Return whether there is such a file; a name that none can have is no error, as it is to `Path.is_file`."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str) -> bool:
    """Return whether there is such a folder, as `is_file` does."""
    return os.path.isdir(path)  # noqa: PTH112


def entries(root: Path) -> Iterator[str]:
    """Yield the relative path of every file in a folder, and of every link, which may lead to a folder."""
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(root).as_posix()


def json_object(file: Path) -> dict[str, Any] | None:
    """Return a JSON object; None if there is none."""
    try:
        content = json.loads(read_document(file))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def check_chain(verification: Verification, where: str, steps: Iterable[Mapping[str, Any]]) -> None:
    """Check that each step's digest is that of its files, and each input is what an earlier step made.

    ``register:2``, a second registration, has taken what an ``upload:2`` made, where there is one.
    """
    outputs: dict[str, str] = {}
    for step in steps:
        verification.same(f"{where}: {step['name']}: output", digest_of(step["files"]), step["output"])
        suffix = "".join(step["name"].partition(":")[1:])
        inputs = {name: outputs.get(name + suffix, outputs.get(name)) for name in step["inputs"]}
        verification.same(f"{where}: {step['name']}: inputs", step["inputs"], inputs)
        outputs[step["name"]] = step["output"]


def say_ways_out(verification: Verification, config: Mapping[str, Any]) -> None:
    verification.notes += [f"{setting}: {meaning}" for setting, meaning in ways_out(config).items()]
