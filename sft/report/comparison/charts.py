"""The charts of a comparison, as SVG that needs nothing else. Colours and fonts are the page's.

Every mark of a run has the class ``p`` and its number as ``data-n``, so that the page can light up one run everywhere.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from sft.report.comparison.axes import Axis, number, of_numbers, of_texts
from sft.report.comparison.table import Comparison, Row
from sft.report.comparison.text import memory_text, short_keys, time_text, value_text
from sft.scores import format_score

_RAMP = ((29, 78, 216), (100, 116, 139), (180, 83, 9))
"""From the best run to the worst: blue, grey, amber; told apart also by the colour-blind. White text on each of them,
and on what lies between, has a contrast of 4.5 and more."""
WIDE, NARROW = 920, 330
"""Of a chart on a desktop and on a phone, in px, which are also the units of its texts."""
_HEIGHT = 340
_PER_LETTER = 7
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 18, 52
_MOST_CELLS = 12


def done(found: Comparison) -> list[Row]:
    """Return the runs that can be drawn, the best first."""
    return [row for row in found.rows if row.objective is not None and row.status == "done"]


def settings(found: Comparison, width: int = WIDE) -> str:
    """Draw what the settings do: points for one of them, a heat map for two, parallel coordinates for more.

    Args:
        found: The runs.
        width: Of the chart; empty where its texts don't fit into that.
    """
    keys = list(found.keys)
    if not keys or not done(found):
        return ""
    if len(keys) == 1:
        return _points(found, keys[0], width)
    if width < WIDE:
        return ""
    distinct = [len({row.values.get(key) for row in found.rows}) for key in keys]
    pairs = [(row.values.get(keys[0]), row.values.get(keys[1])) for row in found.rows]
    if len(keys) == 2 and max(distinct) <= _MOST_CELLS and len(set(pairs)) == len(pairs) > max(distinct):
        return _heat_map(found, keys[0], keys[1])
    return _parallel(found, keys)


def curves(found: Comparison, width: int = WIDE) -> str:
    """Draw the training loss over steps, of all runs that have some; empty where the texts don't fit into the width."""
    rows = [row for row in found.rows if len(row.curve) > 1]
    if not rows:
        return ""
    every = [step for row in rows for step, _ in row.curve]
    steps = Axis(min(every), max(every))
    losses = of_numbers([loss for row in rows for _, loss in row.curve], margin=0.03)
    if not _fits(steps, width):
        return ""
    marks = []
    for row in reversed(rows):
        line = " ".join(f"{_x(steps.place(step), width):.1f},{_y(losses.place(loss)):.1f}" for step, loss in row.curve)
        marks.append(_mark(found, row, f'<polyline class="line" points="{line}"/>'))
    axes = _axes(steps, losses, "step", "training loss", width)
    return _chart(axes, marks, "Training loss of every run over its steps", width)


def pareto(found: Comparison, width: int = WIDE, *, by_memory: bool) -> str:
    """Draw the objective against what it costs; the line joins the runs that no other one beats in both.

    Args:
        found: The runs.
        width: For two of these, if that is `WIDE`; else of this one. Empty where its texts don't fit into it.
        by_memory: Whether memory is the cost; else time.
    """
    rows = [row for row in done(found) if _cost(row, by_memory=by_memory) is not None]
    if len(rows) < 2:
        return ""
    width = WIDE // 2 - 10 if width == WIDE else width
    costs = of_numbers([_cost(row, by_memory=by_memory) or 0.0 for row in rows])
    values = of_numbers([row.objective or 0.0 for row in rows])
    if not _fits(costs, width):
        return ""
    at = [
        (_x(costs.place(_cost(row, by_memory=by_memory) or 0.0), width), _y(values.place(row.objective or 0.0)), row)
        for row in rows
    ]
    front = sorted(
        (x, y) for x, y, row in at if not any(_beats(other, row, found, by_memory=by_memory) for other in rows)
    )
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in dict.fromkeys(front))
    marks = [f'<polyline class="front" points="{line}"/>'] if len(set(front)) > 1 else []
    for place, (x, y, row) in reversed(list(enumerate(at))):
        label = f'<text class="label" x="{x + 9:.1f}" y="{y + 4:.1f}">{row.number}</text>' if place < 12 else ""
        marks.append(_mark(found, row, f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6"/>{label}'))
    name = "peak memory of a rank, GiB" if by_memory else "training and scoring, seconds"
    return _chart(_axes(costs, values, name, found.objective, width), marks, f"{found.objective} against {name}", width)


def _points(found: Comparison, key: str, width: int) -> str:
    rows = done(found)
    where = of_texts(_texts(rows, key))
    values = of_numbers([row.objective or 0.0 for row in rows])
    if not _fits(where, width):
        return ""
    marks = []
    for row in reversed(rows):
        x, y = _x(where.place(_value(where, row.values[key])), width), _y(values.place(row.objective or 0.0))
        anchor, gap = ("start", 10) if x + 70 < width else ("end", -10)
        at = f'text-anchor="{anchor}" x="{x + gap:.1f}" y="{y + 4:.1f}"'
        label = f'<text class="label" {at}>{format_score(row.objective)}</text>'
        marks.append(_mark(found, row, f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7"/>{label if len(rows) <= 12 else ""}'))
    axes = _axes(where, values, short_keys([key])[key], found.objective, width)
    return _chart(axes, marks, f"{found.objective} by {key}", width)


def _fits(across: Axis, width: int) -> bool:
    """Return whether the texts below an axis have room beside each other; a desktop has room for what an axis has."""
    letters = sum(len(_cut(text)) + 1 for _, text in across.ticks())
    return width == WIDE or letters * _PER_LETTER <= width - _LEFT - _RIGHT


def _heat_map(found: Comparison, first: str, second: str) -> str:
    across, down = (of_texts(_texts(found.rows, key)) for key in (first, second))
    across, down = (Axis(names=tuple(name for _, name in axis.ticks())) for axis in (across, down))
    height = max(_TOP + _BOTTOM + 64 * len(down.names), 200)
    left = min(220, max(_LEFT, 18 + 8 * max(len(_cut(name)) for name in down.names)))
    cell_width = (WIDE - left - _RIGHT) / len(across.names)
    cell_height = (height - _TOP - _BOTTOM) / len(down.names)
    names = short_keys([first, second])
    parts = [
        f'<text class="tick" text-anchor="middle" x="{left + (place + 0.5) * cell_width:.1f}" '
        f'y="{height - _BOTTOM + 20}">{_escaped(name)}</text>'
        for place, name in enumerate(across.names)
    ]
    parts += [
        f'<text class="tick" text-anchor="end" x="{left - 10}" y="{_TOP + (place + 0.5) * cell_height + 4:.1f}">'
        f"{_escaped(name)}</text>"
        for place, name in enumerate(down.names)
    ]
    middle = left + (WIDE - left - _RIGHT) / 2
    title = f'<text class="title" text-anchor="middle" x="{middle:.1f}" y="{height - 8}">'
    parts.append(f"{title}{_escaped(names[first])}</text>")
    parts.append(f'<text class="title" x="4" y="{_TOP - 5}">{_escaped(names[second])}</text>')
    marks = []
    for row in found.rows:
        x = left + across.names.index(row.values[first]) * cell_width
        y = _TOP + down.names.index(row.values[second]) * cell_height
        box = f'x="{x + 2:.1f}" y="{y + 2:.1f}" width="{cell_width - 4:.1f}" height="{cell_height - 4:.1f}" rx="6"'
        is_drawn = row.objective is not None and row.status == "done"
        shown = format_score(row.objective) if is_drawn else row.status
        kind = "cell" if is_drawn else "cell empty"
        text = (
            f'<text class="{"value" if is_drawn else "tick"}" text-anchor="middle" x="{x + cell_width / 2:.1f}" '
            f'y="{y + cell_height / 2 + 5:.1f}">{"★ " if row.is_best else ""}{shown}</text>'
        )
        marks.append(_mark(found, row, f'<rect class="{kind}" {box}/>{text}'))
    return _chart(parts, marks, f"{found.objective} by {first} and {second}", WIDE, int(height))


def _parallel(found: Comparison, keys: Sequence[str]) -> str:
    rows = done(found)
    axes = [of_texts(_texts(rows, key)) for key in keys]
    values = of_numbers([row.objective or 0.0 for row in rows], margin=0.02)
    names = [*short_keys(keys).values(), found.objective]
    left, right = 90, 90
    at = [left + place * (WIDE - left - right) / len(keys) for place in range(len(keys) + 1)]
    parts, ticks = [], []
    for place, (axis, name) in enumerate(zip([*axes, values], names, strict=True)):
        x, is_last = at[place], place == len(keys)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP + 14}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text class="title" text-anchor="middle" x="{x:.1f}" y="{_HEIGHT - 18}">{_escaped(name)}</text>')
        anchor, gap = ("start", 9) if is_last else ("end", -9)
        ticks += [
            f'<text class="tick over" text-anchor="{anchor}" x="{x + gap:.1f}" y="{_inner(position) + 4:.1f}">'
            f"{_escaped(text)}</text>"
            for position, text in axis.ticks()
        ]
    marks = []
    for row in reversed(rows):
        heights = [axis.place(_value(axis, row.values.get(key, ""))) for axis, key in zip(axes, keys, strict=True)]
        heights.append(values.place(row.objective or 0.0))
        line = " ".join(f"{x:.1f},{_inner(height):.1f}" for x, height in zip(at, heights, strict=True))
        marks.append(_mark(found, row, f'<polyline class="line" points="{line}"/>'))
    return _chart(parts, [*marks, *ticks], f"Settings of every run and its {found.objective}")


def _mark(found: Comparison, row: Row, shape: str) -> str:
    """Draw a run's mark: coloured by its place among all, with all that is known of it when it is pointed at."""
    rows = done(found)
    place = rows.index(row) / max(1, len(rows) - 1) if row in rows else 1.0
    facts = [f"{row.number}: {' '.join(f'{key}={value_text(row, key)}' for key in row.values)}"]
    facts.append(f"{found.objective} {format_score(row.objective)}" if row.objective is not None else row.status)
    facts += [text for text in (time_text(row.seconds), memory_text(row.memory_bytes)) if text]
    best = " best" if row.is_best else ""
    title = html.escape("\n".join(facts))
    return f'<g class="p{best}" data-n="{row.number}" style="--c:{colour(place)}"><title>{title}</title>{shape}</g>'


def colour(place: float) -> str:
    """Return a colour from the best (0) to the worst (1)."""
    start, end = (_RAMP[0], _RAMP[1]) if place < 0.5 else (_RAMP[1], _RAMP[2])
    part = place * 2 if place < 0.5 else place * 2 - 1
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(start, end, strict=True))


def _axes(across: Axis, up: Axis, across_name: str, up_name: str, width: int = WIDE) -> list[str]:
    parts = []
    for position, text in up.ticks():
        y = _y(position)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{_LEFT - 8}" y="{y + 4:.1f}">{_escaped(text)}</text>')
    for position, text in across.ticks():
        x = _x(position, width)
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}">{_escaped(text)}</text>'
        )
    bottom = _HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + width - _RIGHT) / 2
    parts.append(
        f'<text class="title" text-anchor="middle" x="{middle}" y="{_HEIGHT - 10}">{html.escape(across_name)}</text>'
    )
    place = f'transform="translate(16 {(_TOP + bottom) / 2}) rotate(-90)"'
    return [*parts, f'<text class="title" text-anchor="middle" {place}>{html.escape(up_name)}</text>']


def _chart(axes: Sequence[str], marks: Sequence[str], what: str, width: int = WIDE, height: int = _HEIGHT) -> str:
    label = html.escape(what, quote=True)
    body = "".join([*axes, *marks])
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{body}</svg>'


def _cost(row: Row, *, by_memory: bool) -> float | None:
    if by_memory:
        return None if row.memory_bytes is None else row.memory_bytes / 2**30
    return row.seconds


def _beats(other: Row, row: Row, found: Comparison, *, by_memory: bool) -> bool:
    """Return whether another run is as good in both, and better in one."""
    sign = -1 if found.higher_is_better else 1
    mine, its = ((sign * (one.objective or 0.0), _cost(one, by_memory=by_memory) or 0.0) for one in (row, other))
    return its != mine and its[0] <= mine[0] and its[1] <= mine[1]


def _texts(rows: Sequence[Row], key: str) -> list[str]:
    """Return the values of a setting, in the order of the runs' numbers."""
    return [row.values.get(key, "") for row in sorted(rows, key=lambda row: row.number)]


def _value(axis: Axis, text: str) -> float | str:
    return text if axis.names else float(text)


def _x(place: float, width: int = WIDE) -> float:
    return _LEFT + place * (width - _LEFT - _RIGHT)


def _y(place: float) -> float:
    return _HEIGHT - _BOTTOM - place * (_HEIGHT - _TOP - _BOTTOM)


def _inner(place: float) -> float:
    return _HEIGHT - _BOTTOM - place * (_HEIGHT - _TOP - 14 - _BOTTOM)


def _cut(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:10]}…{text[-12:]}"


def _escaped(text: str) -> str:
    return html.escape(_cut(text))


__all__ = ["NARROW", "WIDE", "colour", "curves", "done", "number", "pareto", "settings"]
