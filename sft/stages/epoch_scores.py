"""The scores of the models of epochs beside those of the tuned model: the last one's, or a chosen one's."""

from __future__ import annotations

from collections.abc import Mapping

from sft.artifacts import Artifact, ChosenStep, EvalReport
from sft.scores import format_score


def epochs_of(made: Mapping[str, Artifact]) -> dict[int, EvalReport]:
    """Return the reports of models of epochs, by epoch.

    Args:
        made: What the steps of a run made, by their names.
    """
    return {
        int(name.rpartition("-")[2]): report
        for name, report in made.items()
        if name.startswith("evaluate:epoch-") and isinstance(report, EvalReport)
    }


def epoch_table(
    epochs: Mapping[int, EvalReport], tuned: EvalReport, choice: ChosenStep | None = None
) -> list[list[str]]:
    """Return a table as texts: a head, and a row for each score that the epochs have; empty without epochs.

    Args:
        epochs: Scores by epoch.
        tuned: Scores of the tuned model.
        choice: Which step's model that is; None = the last one's.
    """
    reports = [report for _, report in sorted(epochs.items())]
    names = dict.fromkeys(score.name for report in reports for score in report.scores)
    rows = [[name, *(_shown(report, name) for report in (*reports, tuned))] for name in names]
    head = [
        "score",
        *(f"epoch {epoch}" for epoch in sorted(epochs)),
        f"chosen step {choice.step}" if choice else "last epoch",
    ]
    return [head, *rows] if rows else []


def _shown(report: EvalReport, name: str) -> str:
    score = report.score(name)
    return format_score(score.value, score.stderr) if score else ""
