"""Is the tuned model better: a bar for each difference, better to the right, with the table behind it."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence

from sft.artifacts import ChosenStep, EvalReport, JudgeReport, ModelComparison
from sft.report import changed_samples
from sft.report.page import as_page, bars, details, section, table
from sft.scores import TELLS_OVER, Change, Score, Verdict, format_score, score_row
from sft.stages.epoch_scores import epoch_table

_HEAD = ("score", "before", "after", "difference", "samples", "tells over")
_CLASSES = {Verdict.better: "better", Verdict.worse: "worse"}


def as_html(
    title: str,
    tuned: EvalReport,
    base: EvalReport | None,
    comparison: ModelComparison | None,
    judges: Sequence[JudgeReport] = (),
    epochs: Mapping[int, EvalReport] | None = None,
    choice: ChosenStep | None = None,
) -> str:
    """Return the scores, and the samples that changed most, as a page of their own.

    Args:
        title: Of the page.
        tuned: As in `sections`, and so are the others.
        base: Of the base model.
        comparison: How they differ.
        judges: How a judge compares the two.
        epochs: Scores of the models of epochs.
        choice: Which step's model the tuned one is.
    """
    parts = [*sections(tuned, base, comparison, judges, epochs, choice), changed_samples.section(comparison)]
    return as_page(title, "\n".join(parts))


def sections(
    tuned: EvalReport,
    base: EvalReport | None,
    comparison: ModelComparison | None,
    judges: Sequence[JudgeReport] = (),
    epochs: Mapping[int, EvalReport] | None = None,
    choice: ChosenStep | None = None,
) -> Iterator[str]:
    """Yield the sections on a model's scores.

    Args:
        tuned: Of the tuned model.
        base: Of the base model; None where it wasn't scored.
        comparison: How they differ; None where it wasn't.
        judges: How a judge compares the two, for each held-out set that was judged.
        epochs: Scores of the models of epochs, by epoch.
        choice: Which step's model the tuned one is; None = the last one's.
    """
    changes = {score.name: comparison.change(score.name) if comparison else None for score in tuned.scores}
    tabled = table(_HEAD, (_cells(score, base, changes[score.name]) for score in tuned.scores))
    notes = _notes(tuned.notes_beside(base))
    if not any(changes.values()):
        yield section("Its scores", tabled + notes)
    else:
        drawn = bars(_bar(score, change) for score in tuned.scores if (change := changes[score.name]))
        content = drawn + details("scores", "The scores as a table", tabled + _explained(comparison))
        text = "The difference to the base model, and where the true one lies; to the right of the line is better."
        yield section("Is it better?", content + notes, text)
    if rows := epoch_table(epochs or {}, tuned, choice):
        note = f"The model {choice.told}." if choice and choice.optimism else ""
        yield section("After each epoch", table(rows[0], rows[1:]), note)
    if judges:
        yield section("What a judge says", "".join(f"<p>{html.escape(str(judge))}</p>" for judge in judges))


def of_base(base: EvalReport) -> Iterator[str]:
    """Yield the section on a base model's scores, where the tuned model has none yet."""
    rows = ([row.name, row.after, row.samples] for row in (score_row(score, None, None) for score in base.scores))
    yield section("The base model's scores", table(("score", "value", "samples"), rows) + _notes(base.notes))


def _notes(notes: Sequence[str]) -> str:
    """Return what is to be known of scores."""
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"<p>Of how these scores came about:</p><ul>{listed}</ul>" if notes else ""


def _cells(score: Score, base: EvalReport | None, change: Change | None) -> Sequence[str]:
    row = score_row(score, base.score(score.name) if base else None, change)
    return row.name, row.before, row.after, row.difference, row.samples, row.detectable


def _explained(comparison: ModelComparison | None) -> str:
    return f"<p>Differences: {html.escape(comparison.explained)}. {TELLS_OVER}</p>" if comparison else ""


def _bar(score: Score, change: Change) -> tuple[str, str, str]:
    """Return the name of a score, its bar, and what it says; each bar has the scale of its own score."""
    told = f"{format_score(change.before)} → {format_score(score.value)}, {change.verdict.value}"
    sign = 1.0 if change.higher_is_better else -1.0
    ends = sorted(sign * end for end in change.corrected or (change.difference, change.difference))
    widest = max(abs(ends[0]), abs(ends[1])) or 1.0
    low, high, at = (50 + 46 * end / widest for end in (*ends, sign * change.difference))
    kind = _CLASSES.get(change.verdict, "unsure")
    interval = f'<i class="{kind}" style="left:{low:.2f}%;width:{high - low:.2f}%"></i>' if change.corrected else ""
    return score.name, f'<i class="zero" style="left:50%"></i>{interval}<i class="at" style="left:{at:.2f}%"></i>', told
