"""How a model learned from each of `dataset.sources`, and how well it came to know each held-out set on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.layout import METRICS
from sft.report.learning import VALIDATED, read_validations, rows_of
from sft.report.page import table

_LOSS = "loss."


def by_set(logs: Path) -> str:
    """Return a table with a row for each of `training.validation_sets`; nothing where there is none.

    Args:
        logs: Folder in which the ranks write.
    """
    sources = {key.removeprefix(_LOSS) for row in rows_of(logs / METRICS, dict[str, Any]) for key in row}
    sets = {name: points for name, points in read_validations(logs).items() if name not in sources}
    head = ["held-out set", "loss when it was first validated", "lowest", "at step", "last"]
    rows = []
    for name, points in sets.items():
        step, lowest = min(points, key=lambda point: point[1])
        rows.append([name, f"{points[0][1]:.4f}", f"{lowest:.4f}", f"{step:,}", f"{points[-1][1]:.4f}"])
    return table(head, rows) if rows else ""


def by_source(logs: Path) -> str:
    """Return a table with a row for each named source; nothing where the dataset has none.

    Args:
        logs: Folder in which the ranks write.
    """
    rows = rows_of(logs / METRICS, dict[str, Any])
    names = dict.fromkeys(key.removeprefix(_LOSS) for row in rows for key in row if key.startswith(_LOSS))
    head = ["source", "loss in the first tenth of the steps", "in the last tenth", "validated first", "validated last"]
    return table(head, [[name, *_cells(rows, name)] for name in names]) if names else ""


def _cells(rows: Sequence[dict[str, Any]], name: str) -> Iterator[str]:
    part = max(1, len(rows) // 10)
    validated = [value for row in rows if (value := row.get(f"{VALIDATED}{name}")) is not None]
    for value in (_mean(rows[:part], name), _mean(rows[-part:], name), *(validated[:1] or [None]), *validated[-1:]):
        yield "" if value is None else f"{value:.4f}"


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Return the mean by tokens; None if the source has none in these steps."""
    counted = [(row[f"{_LOSS}{name}"], row[f"num_loss_tokens.{name}"]) for row in rows if f"{_LOSS}{name}" in row]
    num_tokens = sum(number for _, number in counted)
    return sum(loss * number for loss, number in counted) / num_tokens if num_tokens else None
