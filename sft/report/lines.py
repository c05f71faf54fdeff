"""A chart of lines over steps, which needs no library: a drawing that stretches, with its texts beside it as HTML.

``page.js`` lets a person read a step, and zoom; without scripts, and on paper, all lines are there as well.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sft.report.comparison.axes import Axis, number, of_numbers

_SIZE = 1000
_MOST_POINTS = 400
"""Of a line; more can't be told apart on a screen."""
_MOST_ACROSS = 6
MOST_LINES = 6
"""Of a chart: as many as ``page.css`` has colours for."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart.

    Attributes:
        name: What it shows.
        points: Step and value, in order.
    """

    name: str
    points: Sequence[tuple[int, float]]

    @property
    def drawn(self) -> list[tuple[int, float]]:
        """The points that are drawn: evenly many of them, the first and the last always."""
        points = [(step, value) for step, value in self.points if math.isfinite(value)]
        every = -(-len(points) // _MOST_POINTS) or 1
        return [*points[:-1:every], *points[-1:]]


def line_chart(
    name: str, title: str, lines: Sequence[Line], *, unit: str = "", marks: Sequence[int] = (), may_be_log: bool = False
) -> str:
    """Return a chart of lines over the optimizer steps; nothing where no line has a point.

    Args:
        name: Its id in the page.
        title: What it shows.
        lines: At most `MOST_LINES`.
        unit: Of the values.
        marks: Steps after which the training was resumed.
        may_be_log: Whether equal ratios get equal distances where the values differ by much.
    """
    shown = [(line.name, line.drawn) for line in lines]
    shown = [(what, points) for what, points in shown if points]
    if not shown:
        return ""
    steps = [step for _, points in shown for step, _ in points]
    across = Axis(min(steps), max(steps) if max(steps) > min(steps) else min(steps) + 1)
    up = of_numbers([value for _, points in shown for _, value in points], may_be_log=may_be_log)
    drawing = [f'<g class="grids">{"".join(_grid(place) for place, _ in up.ticks())}</g>']
    for step in marks:
        if across.low <= step <= across.high:
            x = f"{_SIZE * across.place(step):.2f}"
            drawing.append(f'<line class="resume" x1="{x}" x2="{x}" y1="-1e6" y2="1e6"/>')
    drawing += [_drawn(kind, points, across, up) for kind, (_, points) in enumerate(shown)]
    drawing.append('<line class="cursor" visibility="hidden" y1="-1e6" y2="1e6"/>')
    drawing.append('<rect class="range" y="-1000000" height="2000000" width="0"/>')
    label = html.escape(f"{title} over the steps; arrow keys read a step, plus zooms in, Escape shows all", quote=True)
    svg = (
        f'<svg viewBox="0 0 {_SIZE} {_SIZE}" preserveAspectRatio="none" role="img" tabindex="0" aria-label="{label}">'
        f"{''.join(drawing)}</svg>"
    )
    ys = "".join(f'<span style="bottom:{100 * place:.2f}%">{html.escape(text)}</span>' for place, text in up.ticks())
    xs = "".join(f'<span style="left:{100 * place:.2f}%">{html.escape(text)}</span>' for place, text in _whole(across))
    keys = "".join(f'<small class="key s{kind}">{html.escape(what)}</small>' for kind, (what, _) in enumerate(shown))
    resumed = f"<small>resumed after step {', '.join(map(str, marks))}</small>" if marks else ""
    facts = {
        "axis": {"name": "step", "x": [across.low, across.high], "y": [up.low, up.high], "log": up.is_log},
        "series": [{"name": what, "points": points} for what, points in shown],
        "unit": unit,
    }
    return (
        f'<figure id="{html.escape(name)}"><figcaption>{html.escape(title)} '
        f"{keys if len(shown) > 1 else ''}{resumed}</figcaption>"
        f'<div class="plot">{svg}<div class="ys">{ys}</div><div class="xs">{xs}</div></div>'
        f'<output class="read"></output><script type="application/json">{_json(facts)}</script></figure>'
    )


def _whole(across: Axis) -> list[tuple[float, str]]:
    """Return ticks at whole steps, few enough for a phone."""
    values = {round(across.low + (across.high - across.low) * place) for place, _ in across.ticks()}
    return [(across.place(value), number(value)) for value in sorted(values)][:_MOST_ACROSS]


def _grid(place: float) -> str:
    y = f"{_SIZE * (1 - place):.2f}"
    return f'<line class="grid" x1="0" x2="{_SIZE}" y1="{y}" y2="{y}"/>'


def _drawn(kind: int, points: Sequence[tuple[int, float]], across: Axis, up: Axis) -> str:
    places = [f"{_SIZE * across.place(x):.2f},{_SIZE * (1 - up.place(y)):.2f}" for x, y in points]
    dots = len(points) < 3  # a line of one point is none
    line = f'<polyline points="{" ".join(places)}"/>'
    marks = "".join(f'<path class="dot" d="M{place} l.01 0"/>' for place in places) if dots else ""
    return f'<g class="s{kind}">{line}{marks}</g>'


def _json(facts: object) -> str:
    """Return JSON that can stand in a script element: nothing in it ends that one."""
    return json.dumps(facts).replace("<", "\\u003c")
