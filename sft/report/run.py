"""What a run ends with: where everything is, and each score before and after; as lines, and the scores as a page."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

from sft.artifacts import EvalReport, JudgeReport, ModelPackage, RegisteredModel, UploadedModel
from sft.config.schema import HOLDOUT
from sft.report.page import PAGE
from sft.runner import RunResult
from sft.scores import change, format_score, score_row


def as_html(title: str, tuned: EvalReport, base: EvalReport | None, judge: JudgeReport | None = None) -> str:
    """Return the scores as one page that needs nothing else.

    Args:
        title: The run's name.
        tuned: Scores of the tuned model.
        base: Scores of the base model; None where it wasn't scored.
        judge: How a judge compares the two; None where there is none.
    """
    rows = []
    for score in tuned.scores:
        row = score_row(score, base.score(score.name) if base else None)
        cells = (row.before, row.after, row.difference, row.num_samples)
        rows.append(f"<tr><th>{html.escape(row.name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "<tr><th>score</th><th>before</th><th>after</th><th>difference</th><th>samples</th></tr>"
    judged = f"<p>{html.escape(str(judge))}</p>" if judge else ""
    return PAGE.format(title=html.escape(title), body=f"<table>{head}{''.join(rows)}</table>{judged}")


def summary(result: RunResult) -> Iterator[str]:
    """Return the lines that end a run: where everything is, and the scores before and after."""
    made = result.artifacts
    if result.nothing_to_do:
        yield f"nothing to do: this run was done at {result.record.ended_at}"
    base, tuned = made.get("evaluate:base"), made.get("evaluate:tuned")
    if isinstance(tuned, EvalReport):
        yield ""
        yield from score_lines(tuned, base if isinstance(base, EvalReport) else None)
    if isinstance(judged := made.get("judge"), JudgeReport):
        yield str(judged)
    package, uploaded, registered = made.get("package"), made.get("upload"), made.get("register")
    yield f"\nrecord      {_short(result.folder / 'run.json')}"
    if isinstance(package, ModelPackage):
        yield f"model       {_short(package.model_dir)}"
    if isinstance(uploaded, UploadedModel):
        yield f"uploaded    {uploaded.uri}"
    if isinstance(registered, RegisteredModel):
        yield f"registered  {registered.name} version {registered.version} in {registered.address}"


def score_lines(after: EvalReport, before: EvalReport | None) -> Iterator[str]:
    """Yield a line per score, and a warning about what got worse and about what does not compare."""
    forgotten = []
    for score in after.scores:
        base = before.score(score.name) if before else None
        row = score_row(score, base)
        values = f"{format_score(base.value)} → {row.after}  {row.difference}" if base else row.after
        yield f"{row.name:<32} {values}  ({row.num_samples} samples)"
        if base and score.task != HOLDOUT and change(base, score).is_clearly_worse:
            forgotten.append(score.name)
    if forgotten:
        yield f"warning: worse than before on {', '.join(forgotten)}: the model may be forgetting what it knew"
    for task in after.other_data(before) if before else ():
        yield f"warning: the data of {task} changed since the base model was scored; its scores don't compare"


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
