"""How a model learned: loss, learning rate, speed, MFU and memory of each optimizer step, from ``metrics.jsonl``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sft.adapters.instructlab.layout import METRICS, RESUMES, VALIDATION_LOSS
from sft.artifacts import LOGS_NAME
from sft.report.comparison.axes import number
from sft.report.lines import MOST_LINES, Line, line_chart
from sft.report.page import details, table

_GIB = 2**30
_MOST_ROWS = 200
"""Of the table behind the charts."""
_ROW_BYTES = 1 << 20
"""A row is shorter; what has no end is no row."""
_Row = TypeVar("_Row")
VALIDATED = f"{VALIDATION_LOSS}."
"""What the names of validation losses by name begin with in ``metrics.jsonl``."""


class Step(msgspec.Struct):
    """What is read of a row of ``metrics.jsonl``; None where the training did not measure it."""

    step: int
    loss: float | None = None
    validation_loss: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    memory_bytes: int | None = None


class _Resume(msgspec.Struct):
    step: int


def read_steps(logs: Path) -> list[Step]:
    """Return the steps of a training so far: a row that is being written is left out, as is what is no row.

    Args:
        logs: Folder in which the ranks write.
    """
    return rows_of(logs / METRICS, Step)


def read_resumes(logs: Path) -> list[int]:
    """Return after which steps a training was resumed.

    Args:
        logs: Folder in which the ranks write.
    """
    return sorted({row.step for row in rows_of(logs / RESUMES, _Resume)})


def read_validations(logs: Path) -> dict[str, list[tuple[int, float]]]:
    """Return steps and validation losses of each held-out set and source that has some, by its name.

    Args:
        logs: Folder in which the ranks write.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows_of(logs / METRICS, dict[str, Any]):
        for key, value in row.items():
            if key.startswith(VALIDATED) and isinstance(value, float) and isinstance(row.get("step"), int):
                found.setdefault(key.removeprefix(VALIDATED), []).append((row["step"], value))
    return found


def rows_of(file: Path, kind: type[_Row]) -> list[_Row]:
    """Return the rows of a file, as far as they are whole and of that kind.

    Args:
        file: JSON Lines that may be growing.
        kind: What a row is.
    """
    rows = []
    try:
        with file.open("rb") as stream:
            while line := stream.readline(_ROW_BYTES):
                if not line.endswith(b"\n"):
                    continue
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                    rows.append(msgspec.json.decode(line, type=kind))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return rows


_CHARTS: tuple[tuple[str, str, tuple[tuple[str, str], ...], float, str], ...] = (
    ("loss", "Loss", (("loss", "training"), ("validation_loss", "validation")), 1.0, ""),
    ("rate", "Learning rate", (("learning_rate", "learning rate"),), 1.0, ""),
    ("speed", "Throughput", (("tokens_per_second", "speed"),), 1.0, "tokens/s"),
    ("mfu", "Model FLOPs utilisation", (("mfu", "MFU"),), 0.01, "%"),
    ("memory", "Peak memory of a rank", (("memory_bytes", "memory"),), _GIB, "GiB"),
    ("norm", "Norm of the gradient, before it is clipped", (("gradient_norm", "norm"),), 1.0, ""),
)
"""Of each chart: id, title, the fields of `Step` with their names, what they are divided by, unit."""
_MAY_BE_LOG = ("loss", "norm")


def charts(
    steps: Sequence[Step],
    resumes: Sequence[int] = (),
    validations: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> str:
    """Return the charts of a training, and the table behind them; nothing before its first step.

    Args:
        steps: Of a training.
        resumes: After which of them it was resumed.
        validations: As `read_validations` returns them; for how many the chart of the loss has no room, is said.
    """
    drawn, text = [], ""
    named = [Line(name=f"validation of {what}", points=points) for what, points in (validations or {}).items()]
    for name, title, fields, unit_size, unit in _CHARTS:
        lines = [Line(name=what, points=_points(steps, field, unit_size)) for field, what in fields]
        if name == "loss":
            lines, without = [*lines, *named][:MOST_LINES], [*lines, *named][MOST_LINES:]
            if without:
                text = f"<p>{len(without)} more of the losses by name have no line; the tables below have all.</p>"
        head = f"{title}, {unit}" if unit else title
        drawn.append(line_chart(name, head, lines, unit=unit, marks=resumes, may_be_log=name in _MAY_BE_LOG))
    if not any(drawn):
        return ""
    grid = f'<div class="charts">{"".join(drawn)}</div>'
    return grid + text + details("steps", "The steps as a table", _table(steps), is_long=True)


def _points(steps: Sequence[Step], field: str, unit_size: float) -> list[tuple[int, float]]:
    values = ((step.step, getattr(step, field)) for step in steps)
    return [(step, value / unit_size) for step, value in values if value is not None]


def _table(steps: Sequence[Step]) -> str:
    every = -(-len(steps) // _MOST_ROWS) or 1
    told = [*steps[:-1:every], steps[-1]]
    columns = [
        (what if field != "loss" else "loss", field, size, unit)
        for _, _, fields, size, unit in _CHARTS
        for field, what in fields
        if any(getattr(step, field) is not None for step in told)
    ]
    head = ["step", *(f"{what}, {unit}" if unit else what for what, _, _, unit in columns)]
    rows = ([f"{step.step:,}", *_cells(step, columns)] for step in told)
    text = f"<p>Every {every}th of {len(steps):,} steps; <code>{METRICS}</code> has all.</p>" if every > 1 else ""
    return text + table(head, rows)


def _cells(step: Step, columns: Sequence[tuple[str, str, float, str]]) -> Iterator[str]:
    for _, field, size, _ in columns:
        value = getattr(step, field)
        yield "" if value is None else number(value / size)


def logs_of(training: Path) -> Path:
    """Return the folder in which the ranks of a training write.

    Args:
        training: Folder of a checkpoint, or the one in which it is being made.
    """
    return training / LOGS_NAME
