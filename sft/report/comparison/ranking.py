"""Which run comes first among those that compare, and how sure that is."""

from __future__ import annotations

from pathlib import Path

from sft import record
from sft.report.comparison.groups import Group, evaluation_of, first_two, grouped
from sft.report.comparison.table import Row
from sft.scores import CONFIDENCE


def ranked(rows: list[Row], objective: str, higher: bool) -> list[Group]:
    """Sort rows by group and objective, mark the first of each group, and return the groups."""
    records = {row.folder: record.load(Path(row.folder)) for row in rows if _is_ranked(row)}
    taken = {folder: evaluation_of(rec, Path(folder), objective) for folder, rec in records.items() if rec is not None}
    groups, numbers = grouped([taken.get(row.folder) if _is_ranked(row) else None for row in rows])
    for row, number in zip(rows, numbers, strict=True):
        row.group = number
    rows.sort(key=lambda row: (row.group or len(groups) + 1, _rank(row, higher), row.number))
    for group in groups:
        ahead = [row for row in rows if row.group == group.number][:2]
        if len(ahead) < 2:
            continue
        first, second = ahead
        first.is_best = True
        rec = records[first.folder]
        confidence = rec.config.get("eval", {}).get("confidence", CONFIDENCE) if rec else CONFIDENCE
        said = first_two(
            objective, taken[first.folder], taken[second.folder], higher_is_better=higher, confidence=confidence
        )
        group.first_two = f"{first.number} against {second.number}: {said}"
    return groups


def _is_ranked(row: Row) -> bool:
    return row.objective is not None and row.objective == row.objective and row.status == "done"


def _rank(row: Row, higher: bool) -> float:
    if row.objective is None or not _is_ranked(row):
        return 0.0
    return -row.objective if higher else row.objective
