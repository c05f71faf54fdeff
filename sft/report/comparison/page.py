"""A comparison as one page: the best run, what the settings did, how each run learned, what it cost, and the table.

It needs nothing else: no network, no library. A line of script lights up one run in every chart and in the table.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator

from sft.report.comparison import charts
from sft.report.comparison.groups import TRAIN_LOSS
from sft.report.comparison.table import Comparison, Row
from sft.report.comparison.text import BEST, group_lines, memory_text, short_keys, time_text, value_text
from sft.scores import Verdict, format_difference, format_score

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{
  color-scheme: light dark;
  --ink: light-dark(#1c2330, #e6e9ef); --muted: light-dark(#5b6576, #98a2b3); --back: light-dark(#f6f7f9, #12151b);
  --card: light-dark(#fff, #1a1f27); --rule: light-dark(#e2e6ec, #2c333f); --good: light-dark(#1d4ed8, #7aa2ff);
  --bad: light-dark(#b42318, #ff8a7a);
}}
* {{ box-sizing: border-box; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 0; background: var(--back); color: var(--ink); }}
main {{ max-width: 68rem; margin: 0 auto; padding: 2rem 1rem 4rem; }}
h1 {{ font-size: 1.6rem; margin: 0; }}
h2 {{ font-size: 1.05rem; margin: 0 0 .15rem; }}
p {{ margin: 0 0 .6rem; color: var(--muted); }}
section, .facts > div {{ background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }}
section {{ padding: 1rem 1.2rem; margin-top: 1rem; }}
.facts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin-top: 1rem; }}
.facts > div {{ padding: .7rem 1rem; }}
.facts b {{ display: block; font-size: 1.35rem; line-height: 1.3; overflow-wrap: anywhere; }}
.facts span {{ color: var(--muted); font-size: .85rem; overflow-wrap: anywhere; }}
.two {{ display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }}
svg {{ width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif; }}
.tick {{ fill: var(--muted); }} .title {{ fill: var(--ink); font-weight: 600; }} .label {{ fill: var(--muted); }}
.over {{ paint-order: stroke; stroke: var(--card); stroke-width: 4px; pointer-events: none; }}
.grid {{ stroke: var(--rule); }} .axis {{ stroke: var(--muted); }}
.line {{ fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; opacity: .75; }}
.best .line {{ stroke-width: 3.2; opacity: 1; }}
.front {{ fill: none; stroke: var(--muted); stroke-dasharray: 5 4; stroke-width: 1.5; }}
circle {{ fill: var(--c); stroke: var(--card); stroke-width: 1.5; }}
.best circle {{ stroke: var(--ink); stroke-width: 2; }}
.cell {{ fill: var(--c); }} .value {{ fill: #fff; font-weight: 600; font-size: 14px; }}
.empty {{ fill: none; stroke: var(--rule); stroke-dasharray: 4 3; }}
.best .cell {{ stroke: var(--ink); stroke-width: 2.5; }}
.lit .p:not(.on) {{ opacity: .13; }} .on .line {{ stroke-width: 4; opacity: 1; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; white-space: nowrap; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--rule); }}
th {{ color: var(--muted); font-weight: 600; font-size: .85rem; }}
tr.on td, tr:hover td {{ background: light-dark(#eef3ff, #222a3a); }}
tr.best td {{ font-weight: 600; }}
i {{ display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-right: .4rem; }}
.up {{ color: var(--good); }} .down, .failed {{ color: var(--bad); }}
td small, .why {{ color: var(--muted); font-weight: 400; }}
.why div {{ white-space: pre-wrap; max-width: 55rem; }}
.ramp {{ display: inline-block; width: 6rem; height: .6rem; border-radius: 3px; vertical-align: middle;
  background: linear-gradient(90deg, {ramp}); }}
@media (max-width: 44rem) {{ .two {{ grid-template-columns: 1fr; }} }}
</style>
</head>
<body>
<main>
{body}
</main>
<script>
const marks = n => document.querySelectorAll(`[data-n="${{n}}"]`);
const light = n => {{
  document.querySelectorAll(".on").forEach(mark => mark.classList.remove("on"));
  document.body.classList.toggle("lit", n !== undefined);
  if (n !== undefined) marks(n).forEach(mark => mark.classList.add("on"));
}};
document.addEventListener("mouseover", event => light(event.target.closest("[data-n]")?.dataset.n));
</script>
</body>
</html>
"""


def as_html(found: Comparison) -> str:
    """Return the page."""
    direction = "higher is better" if found.higher_is_better else "lower is better"
    order = f"<p>{len(found.rows)} runs by {html.escape(found.objective)}, {direction}. Colours go from the best "
    order += 'to the worst <span class="ramp"></span>; point at a run to see it everywhere.</p>'
    parts = [f"<h1>{html.escape(found.title)}</h1>", order, _facts(found)]
    parts += [f"<p>{html.escape(line)}</p>" for line in group_lines(found)]
    groups = [found.of_group(group) for group in found.groups] or [found]
    for group in groups:
        name = f" (group {group.groups[0].number})" if len(groups) > 1 else ""
        parts += [_section(title + name, text, content) for title, text, content in _sections(group)]
    parts.append(_section("All runs", "", f'<div class="scroll">{_table(found)}</div>'))
    ramp = ", ".join(charts.colour(place) for place in (0.0, 0.5, 1.0))
    return _PAGE.format(title=html.escape(found.title), body="\n".join(parts), ramp=ramp)


def _sections(found: Comparison) -> Iterator[tuple[str, str, str]]:
    names = ", ".join(short_keys(found.keys).values())
    yield "What the settings do", f"{found.objective} by {names}", charts.settings(found)
    yield "How each run learned", "Loss of each optimizer step, mean over its loss tokens", charts.curves(found)
    both = [charts.pareto(found, by_memory=by_memory) for by_memory in (False, True)]
    if any(both):
        where = "Up" if found.higher_is_better else "Down"
        text = f"{where} and to the left is better; the dashed line joins the runs that no other one beats."
        yield "What it costs", text, f'<div class="two">{"".join(both)}</div>'


def _section(title: str, text: str, content: str) -> str:
    if not content:
        return ""
    told = f"<p>{html.escape(text)}</p>" if text else ""
    return f"<section><h2>{html.escape(title)}</h2>{told}{content}</section>"


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
    items = (f"<div><b>{html.escape(number)}</b><span>{html.escape(text)}</span></div>" for number, text in facts)
    return f'<div class="facts">{"".join(items)}</div>'


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
