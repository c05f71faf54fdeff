"""The page of an evaluation: each score before and after, and whether the difference is one."""

from __future__ import annotations

import html

from sft.artifacts import EvalReport
from sft.report.page import PAGE
from sft.scores import change


def as_html(title: str, tuned: EvalReport, base: EvalReport | None) -> str:
    """One page that needs nothing else.

    Args:
        title: The run's name.
        tuned: Scores of the tuned model.
        base: Scores of the base model; None where it wasn't scored.
    """
    rows = []
    for score in tuned.scores:
        before = base.score(score.name) if base else None
        error = f" ± {score.stderr:.4f}" if score.stderr is not None else ""
        difference = str(change(before, score)) if before else ""
        was = f"{before.value:.4f}" if before else ""
        cells = (was, f"{score.value:.4f}{error}", difference, f"{score.num_samples:,}")
        rows.append(f"<tr><th>{html.escape(score.name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "<tr><th>score</th><th>before</th><th>after</th><th>difference</th><th>samples</th></tr>"
    return PAGE.format(title=html.escape(title), body=f"<table>{head}{''.join(rows)}</table>")
