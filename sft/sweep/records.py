"""What is kept of a sweep: ``<run_root>/sweeps/<name>-<digest>/`` with ``sweep.json`` and a file for each point.

A point may run in another process or on another machine, so what became of it is told through its file alone. What it
made is in its run's own record. The same sweep has the same folder, so the same command finds what it has done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from sft import record, self_hashed_json
from sft.config.schema import RunConfig
from sft.errors import DataError
from sft.files import read_document, write_atomically
from sft.redaction import redacted
from sft.runner.status import run_folder

SCHEMA = 1
NAME = "sweep.json"
POINTS = "points"
Status = Literal["pending", "running", "done", "failed", "skipped", "same", "interrupted"]

T = TypeVar("T", bound=msgspec.Struct)


class Point(msgspec.Struct, kw_only=True):
    """One point of a sweep.

    Attributes:
        number: From 1, in the sweep's order.
        values: What varies, as it was written.
        run: Name of the run's folder.
        work: What it does (`sft.runner.work_digest`); points with the same are one.
        reason: Why it failed or is skipped, or what it is the same as.
        twin: Number of the point that does its work; None = it does it itself.
        objective: Its score.
        exit_code: Of its failure.
        config: Every setting, resolved.
    """

    number: int
    values: dict[str, str]
    run: str
    status: Status = "pending"
    work: str = ""
    reason: str | None = None
    twin: int | None = None
    objective: float | None = None
    exit_code: int = 0
    started_at: str | None = None
    ended_at: str | None = None
    config: dict[str, Any]

    @property
    def title(self) -> str:
        """Number and values in a line."""
        return f"{self.number}: {' '.join(f'{key}={value}' for key, value in self.values.items())}"

    def save(self, sweep: Path) -> None:
        """Write its file."""
        (sweep / POINTS).mkdir(parents=True, exist_ok=True)
        _write(sweep / POINTS / f"{self.number:04}-{self.run.rpartition('-')[2]}.json", self)


class SweepRecord(msgspec.Struct, kw_only=True):
    """``sweep.json``.

    Attributes:
        recipe: Path of the recipe.
        command: What was typed.
        sweeper: Hydra's, by name; so is the launcher.
        varied: What varies: the values of each setting or group, as they were written.
        objective: The score that points are compared by.
    """

    schema: int = SCHEMA
    name: str
    status: Literal["running", "done", "failed", "interrupted"]
    recipe: str
    command: list[str]
    cwd: str
    sweeper: str
    launcher: str
    varied: dict[str, str]
    objective: str
    higher_is_better: bool
    started_at: str
    ended_at: str | None = None

    def save(self, folder: Path) -> None:
        """Write its file."""
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / NAME, self)


def folder_of(cfg: RunConfig, varied: Mapping[str, str], engine: Sequence[str]) -> Path:
    """Return where a sweep is kept: named by what varies and by all that doesn't.

    Args:
        cfg: Its first point.
        varied: What varies.
        engine: What else determines its points: the sampler and its settings.
    """
    tree = _without(msgspec.to_builtins(cfg), varied)
    content = [tree, dict(varied), sorted(engine), cfg.sweep.objective]
    digest = hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:8]
    return Path(cfg.run_root) / "sweeps" / f"{cfg.name}-{digest}"


def point(number: int, values: Mapping[str, str], cfg: RunConfig) -> Point:
    """Return a point that has not begun."""
    config = {name: value for name, value in msgspec.to_builtins(cfg).items() if name != "sweep"}
    return Point(number=number, values=dict(values), run=run_folder(cfg).name, config=config)


def load(folder: Path) -> SweepRecord:
    """Return the sweep of a folder.

    Raises:
        DataError: It is not whole.
    """
    return _read(folder / NAME, SweepRecord)


def points(folder: Path) -> list[Point]:
    """Return what became of a sweep's points so far, by number.

    Raises:
        DataError: A file of one is not whole.
    """
    return [_read(path, Point) for path in sorted((folder / POINTS).glob("[0-9]*.json"))]


def clear_points(folder: Path) -> None:
    """Remove what an earlier try noted of its points; what they made is in the store."""
    for path in (folder / POINTS).glob("*.json"):
        path.unlink()


def now() -> str:
    """Return the time in UTC."""
    return record.now()


def _without(tree: dict[str, Any], varied: Mapping[str, str]) -> dict[str, Any]:
    """Return settings less those that vary, and less where things lie."""
    rest = {name: value for name, value in tree.items() if name not in {"run_root", "sweep"}}
    for key in varied:
        *groups, name = key.replace("/", ".").split(".")
        inner: Any = rest
        for group in groups:
            inner = inner.get(group) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(name, None)
    return rest


def _write(path: Path, content: msgspec.Struct) -> None:
    """Write so that a reader sees the last whole file; secrets are masked."""
    write_atomically(path, self_hashed_json.dump_with_digest(redacted(msgspec.to_builtins(content))), is_lasting=True)


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.convert(self_hashed_json.load_checked(read_document(path)), kind)
    except (OSError, ValueError) as error:  # msgspec's own is a ValueError
        raise DataError(f"{path}: {error}", fix="repeat the sweep: what is done is found in the store") from error
