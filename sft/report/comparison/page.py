"""A comparison as one page: the best run, what the settings did, how each run learned, what it cost, and the table.

It needs nothing else: no network, no library. A line of script lights up one run in every chart and in the table.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from sft.report.comparison import charts
from sft.report.comparison.groups import TRAIN_LOSS
from sft.report.comparison.table import Comparison, Row
from sft.report.comparison.text import BEST, group_lines, memory_text, short_keys, time_text, value_text
from sft.report.page import as_page, section, tiles
from sft.scores import Verdict, format_difference, format_score

_STYLE = """
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem; }
.wide svg { width: 100%; min-width: 40rem; height: auto; display: block; font: 12px system-ui, sans-serif; }
.two .wide svg { min-width: 24rem; }
.narrow { display: none; } .narrow svg { width: 100%; height: auto; font: 11px system-ui, sans-serif; }
@media screen and (max-width: 44rem) { .narrow { display: block; } .narrow + .wide { display: none; } }
.facts + p { margin-top: .8rem; }
.tick { fill: var(--muted); } .title { fill: var(--ink); font-weight: 600; } .label { fill: var(--muted); }
.over { paint-order: stroke; stroke: var(--card); stroke-width: 4px; pointer-events: none; }
.scroll .grid, .narrow .grid { stroke: var(--rule); } .axis { stroke: var(--muted); }
.p { --d: light-dark(var(--c), color-mix(in srgb, var(--c), white 35%)); }
.line { fill: none; stroke: var(--d); stroke-width: 1.8; stroke-linejoin: round; opacity: .75; }
.best .line { stroke-width: 3.2; opacity: 1; }
.front { fill: none; stroke: var(--muted); stroke-dasharray: 5 4; stroke-width: 1.5; }
circle { fill: var(--d); stroke: var(--card); stroke-width: 1.5; }
.best circle { stroke: var(--ink); stroke-width: 2; }
.cell { fill: var(--c); } .value { fill: #fff; font-weight: 600; font-size: 14px; }
.empty { fill: none; stroke: var(--rule); stroke-dasharray: 4 3; }
.best .cell { stroke: var(--ink); stroke-width: 2.5; }
.lit .p:not(.on) { opacity: .13; } .on .line { stroke-width: 4; opacity: 1; }
.all table { width: 100%; }
tr.on td, tr:hover td { background: light-dark(#eef3ff, #222a3a); }
tr.best td { font-weight: 600; }
td i { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-right: .4rem; }
td small, .why { color: var(--muted); font-weight: 400; } td small.up { color: var(--good); }
td small.down { color: var(--bad); }
.why div { white-space: pre-wrap; max-width: min(55rem, 80vw); }
.ramp { display: inline-block; width: 6rem; height: .6rem; border-radius: 3px; vertical-align: middle; }
"""
_SCRIPT = """
const marks = n => document.querySelectorAll(`[data-n="${n}"]`);
const light = n => {
  document.querySelectorAll(".on").forEach(mark => mark.classList.remove("on"));
  document.body.classList.toggle("lit", n !== undefined);
  if (n !== undefined) marks(n).forEach(mark => mark.classList.add("on"));
};
document.addEventListener("mouseover", event => light(event.target.closest("[data-n]")?.dataset.n));
"""


def as_html(found: Comparison) -> str:
    """Return the page."""
    direction = "higher is better" if found.higher_is_better else "lower is better"
    order = f"<p>{len(found.rows)} runs by {html.escape(found.objective)}, {direction}. Colours go from the best "
    ramp = ", ".join(charts.colour(place) for place in (0.0, 0.5, 1.0))
    order += f'to the worst <span class="ramp" style="background:linear-gradient(90deg, {ramp})"></span>; '
    order += "point at a run to see it everywhere.</p>"
    parts = [order, _facts(found)]
    parts += [f"<p>{html.escape(line)}</p>" for line in group_lines(found)]
    groups = [found.of_group(group) for group in found.groups] or [found]
    for group in groups:
        name = f" (group {group.groups[0].number})" if len(groups) > 1 else ""
        parts += [section(title + name, content, text) for title, text, content in _sections(group)]
    parts.append(section("All runs", f'<div class="scroll all" tabindex="0">{_table(found)}</div>'))
    return as_page(found.title, "\n".join(parts), style=_STYLE, script=_SCRIPT)


def _sections(found: Comparison) -> Iterator[tuple[str, str, str]]:
    names = ", ".join(short_keys(found.keys).values())
    yield "What the settings do", f"{found.objective} by {names}", _drawn(partial(charts.settings, found))
    text = "Loss of each optimizer step, mean over its loss tokens"
    yield "How each run learned", text, _drawn(partial(charts.curves, found))
    both = [_drawn(partial(charts.pareto, found, by_memory=by_memory)) for by_memory in (False, True)]
    if any(both):
        where = "Up" if found.higher_is_better else "Down"
        text = f"{where} and to the left is better; the dashed line joins the runs that no other one beats."
        yield "What it costs", text, f'<div class="two">{"".join(both)}</div>'


def _drawn(draw: Callable[[int], str]) -> str:
    """Return a chart as wide as a desktop's page, and one for a phone where its texts have room; else that scrolls."""
    wide, narrow = draw(charts.WIDE), draw(charts.NARROW)
    on_a_phone = f'<div class="narrow">{narrow}</div>' if narrow else ""
    return f'<div>{on_a_phone}<div class="scroll wide" tabindex="0">{wide}</div></div>' if wide else ""


def _facts(found: Comparison) -> str:
    facts = []
    best = next((row for row in found.rows if row.is_best), None)
    if best is not None and len(found.groups) == 1:
        names = short_keys(found.keys)
        values = ", ".join(f"{names[key]} {value_text(best, key)}" for key in found.keys)
        facts.append((f"{BEST} {format_score(best.objective)}", f"best {found.objective}, run {best.number}: {values}"))
        cell = best.scores.get(found.objective)
        if cell and cell.change is not None:
            facts.append((format_difference(cell.change), f"from {format_score(cell.base)} of the base model"))
    counts = Counter(row.status for row in found.rows)
    spent = sum(row.seconds or 0.0 for row in found.rows)
    facts.append(
        (
            f"{counts['done']} of {len(found.rows)}",
            "done; " + ", ".join(f"{count} {status}" for status, count in counts.items() if status != "done")
            if len(counts) > 1 or not counts["done"]
            else "runs done",
        )
    )
    if spent:
        facts.append((time_text(spent), "of training and scoring, of all runs"))
    return tiles(facts)


def _table(found: Comparison) -> str:
    names = short_keys(found.keys)
    first, rest = _objective_first(found)
    named = [] if found.is_sweep else ["run"]
    grouped = ["group"] if len(found.groups) > 1 else []
    heads = ["", "#", *grouped, *named, *names.values(), *first, TRAIN_LOSS]
    heads += ["tokens/s", "memory", "time", "status", *rest]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    rows = "".join(_row(found, row, len(heads)) for row in found.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(found: Comparison, row: Row, num_columns: int) -> str:
    drawn = [other for other in charts.done(found) if other.group == row.group]
    dot = ""
    if row in drawn:
        dot = f'<i style="background:{charts.colour(drawn.index(row) / max(1, len(drawn) - 1))}"></i>'
    cells = [f"{dot}{BEST if row.is_best else ''}", str(row.number)]
    cells += [str(row.group or "")] if len(found.groups) > 1 else []
    cells += [] if found.is_sweep else [html.escape(row.run)]
    cells += [html.escape(value_text(row, key)) for key in found.keys]
    first, rest = _objective_first(found)
    cells += [_score(row, name) for name in first]
    speed = "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}"
    status = f'<span class="{html.escape(row.status)}">{html.escape(row.status)}</span>'
    cells += [format_score(row.train_loss), speed, memory_text(row.memory_bytes), time_text(row.seconds), status]
    cells += [_score(row, name) for name in rest]
    best = ' class="best"' if row.is_best else ""
    line = f'<tr{best} data-n="{row.number}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    if row.reason:
        reason = html.escape(row.reason)
        cell = f'<td class="why" colspan="{num_columns - 1}"><div>{reason}</div></td>'
        line += f'<tr data-n="{row.number}"><td></td>{cell}</tr>'
    return line


def _objective_first(found: Comparison) -> tuple[list[str], list[str]]:
    """Return the objective, if it is a score, and the other scores."""
    names = found.score_names
    return [name for name in names if name == found.objective], [name for name in names if name != found.objective]


def _score(row: Row, name: str) -> str:
    cell = row.scores.get(name)
    if cell is None:
        return ""
    if cell.change is None:
        return format_score(cell.value)
    kind = {Verdict.better.value: "up", Verdict.worse.value: "down"}.get(cell.verdict or "", "")
    verdict = html.escape(cell.verdict or Verdict.none.value, quote=True)
    change = format_difference(cell.change)
    return f'{format_score(cell.value)} <small class="{kind}" title="{verdict}">{change}</small>'
