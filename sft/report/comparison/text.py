"""A comparison for a terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from sft.files import json_text
from sft.report.comparison.axes import is_number, number
from sft.report.comparison.groups import TRAIN_LOSS
from sft.report.comparison.table import Comparison, Row
from sft.scores import Verdict, format_difference, format_score

_MOST_SCORES = 3
_WIDEST = 28
_LONG_NUMBER = 8
BEST = "★"
_IN_DOUBT = (None, Verdict.no_difference.value, Verdict.none.value)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return keys as they are shown: their last part, and as much before it as tells them apart."""
    parts = {key: key.replace("/", ".").split(".") for key in keys}
    shown = {}
    for key, own in parts.items():
        num = 1
        while num < len(own) and any(o[-num:] == own[-num:] for other, o in parts.items() if other != key):
            num += 1
        shown[key] = ".".join(own[-num:])
    return shown


def as_text(found: Comparison) -> str:
    """Return the table, the best first; what failed or was left out is told beneath."""
    keys = short_keys(found.keys)
    scores = [name for name in found.score_names if name == found.objective or not name.startswith("holdout.")]
    scores = scores[:_MOST_SCORES]
    named = [] if found.is_sweep else ["run"]
    grouped = ["group"] if len(found.groups) > 1 else []
    head = ["", "#", *grouped, *named, *keys.values(), *scores, TRAIN_LOSS, "tokens/s", "memory", "time", "status"]
    cells = [
        [
            BEST if row.is_best else "",
            str(row.number),
            *(str(row.group or "") for _ in grouped),
            *(row.run for _ in named),
            *(_cut(value_text(row, key)) for key in keys),
            *(score_text(row, name) for name in scores),
            format_score(row.train_loss),
            "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
            memory_text(row.memory_bytes),
            time_text(row.seconds),
            row.status,
        ]
        for row in found.rows
    ]
    widths = [max(len(line[place]) for line in [head, *cells]) for place in range(len(head))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in [head, *cells]]
    lines += [f"{row.number}: {row.status}: {_first_line(row.reason)}" for row in found.rows if row.reason]
    direction = "highest" if found.higher_is_better else "lowest"
    lines.append(
        f"by {found.objective}, {direction} first; (difference to the base model, ~ where none is seen); "
        "time of training and scoring"
    )
    return "\n".join([*(line.rstrip() for line in lines), *group_lines(found)])


def group_lines(found: Comparison) -> Iterator[str]:
    """Yield how sure the first place is, and where evaluations differ, which runs compare at all."""
    if len(found.groups) > 1:
        yield f"{found.objective} was not taken in one way, so only the runs of a group compare:"
    for group in found.groups:
        if len(found.groups) > 1:
            yield group.title
        if group.first_two:
            yield f"{BEST} {group.first_two}"


def as_csv(found: Comparison) -> str:
    """Return a line for each run, numbers in full: bytes, seconds."""
    columns = ["number", "run", "status", "group", "is_best", *found.keys, TRAIN_LOSS]
    for name in found.score_names:
        columns += [name, f"{name}.stderr", f"{name}.base", f"{name}.change", f"{name}.verdict"]
    columns += ["tokens_per_second", "memory_bytes", "train_seconds", "seconds", "reason"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in found.rows:
        writer.writerow(dict(_fields(row, found)))
    return text.getvalue().rstrip("\n")


def as_json(found: Comparison) -> str:
    """Return all of it but the curves, which are in each run's metrics."""
    tree: dict[str, Any] = msgspec.to_builtins(found)
    for row in tree["rows"]:
        del row["curve"]
    return json_text(tree)


def value_text(row: Row, key: str) -> str:
    """Return a setting's value; a number that a sampler took from an interval to four digits."""
    text = row.values.get(key, "")
    return number(float(text)) if len(text) > _LONG_NUMBER and is_number(text) else text


def score_text(row: Row, name: str) -> str:
    """Return a score and its difference to the base model's."""
    cell = row.scores.get(name)
    if cell is None:
        return ""
    if cell.change is None:
        return format_score(cell.value)
    doubt = "~" if cell.verdict in _IN_DOUBT else ""
    return f"{format_score(cell.value)} ({doubt}{format_difference(cell.change)})"


def memory_text(num_bytes: int | None) -> str:
    """Return bytes as a person reads them."""
    return "" if num_bytes is None else f"{num_bytes / 2**30:.1f} GiB"


def time_text(seconds: float | None) -> str:
    """Return seconds as a person reads them."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
    )


def _fields(row: Row, found: Comparison) -> Iterator[tuple[str, object]]:
    yield from (("number", row.number), ("run", row.run), ("status", row.status))
    yield from (("group", row.group), ("is_best", row.is_best))
    yield from ((key, row.values.get(key, "")) for key in found.keys)
    yield TRAIN_LOSS, row.train_loss
    for name, cell in row.scores.items():
        yield from ((name, cell.value), (f"{name}.stderr", cell.stderr))
        yield from ((f"{name}.base", cell.base), (f"{name}.change", cell.change), (f"{name}.verdict", cell.verdict))
    for name in ("tokens_per_second", "memory_bytes", "train_seconds", "seconds", "reason"):
        yield name, getattr(row, name)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST // 2 - 1]}…{text[-_WIDEST // 2 :]}"


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]
