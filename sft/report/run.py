"""What a run ends with: where everything is, and each score before and after, as lines; and its page beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sft.artifacts import (
    ChosenStep,
    EvalReport,
    ModelComparison,
    ModelPackage,
    RegisteredModel,
    UploadedModel,
)
from sft.config.schema import HOLDOUT
from sft.errors import SftError
from sft.files import path_from_here, write_atomically
from sft.report import run_page
from sft.report.next_steps import next_steps
from sft.report.run_view import RunView, of_result
from sft.runner import RunResult
from sft.scores import Verdict, format_score, score_row
from sft.stages.epoch_scores import epoch_table, epochs_of
from sft.stages.judge import judges_of
from sft.stages.select import trained_checkpoint

PAGE_NAME = "run.html"
_WIDTH = 80


def write_page(result: RunResult, error: SftError | None = None) -> Path:
    """Write ``run.html`` into a run's folder, and return where it is.

    Args:
        result: What was made.
        error: That the run ended with.
    """
    page = result.folder / PAGE_NAME
    if not (result.nothing_to_do and page.is_file()):
        renew_page(of_result(result, str(error) if error else None))
    return page


def renew_page(view: RunView) -> Path:
    """Write a run's page into its folder, and return where it is.

    Args:
        view: The run.
    """
    page = view.folder / PAGE_NAME
    write_atomically(page, run_page.as_html(view).encode("utf-8", errors="replace"))
    return page


def _choice(result: RunResult) -> ChosenStep | None:
    trained = trained_checkpoint(result.artifacts)
    return trained.choice if trained else None


def _scores(result: RunResult) -> tuple[EvalReport | None, EvalReport | None, ModelComparison | None]:
    """Return the tuned model's scores, the base model's, and how they differ, as far as the run has them."""
    tuned, base = result.artifacts.get("evaluate:tuned"), result.artifacts.get("evaluate:base")
    comparison = result.artifacts.get("compare")
    return (
        tuned if isinstance(tuned, EvalReport) else None,
        base if isinstance(base, EvalReport) else None,
        comparison if isinstance(comparison, ModelComparison) else None,
    )


def summary(result: RunResult) -> Iterator[str]:
    """Return the lines that end a run: where everything is, and the scores before and after."""
    made = result.artifacts
    if result.nothing_to_do:
        yield f"nothing to do: this run was done at {result.record.ended_at}"
    tuned, base, comparison = _scores(result)
    if tuned is not None:
        yield ""
        yield from score_lines(tuned, base, comparison)
        for row in epoch_table(epochs_of(made), tuned, _choice(result)):
            yield "  ".join(f"{cell:<19}" for cell in [f"{row[0]:<31}", *row[1:]]).rstrip()
    if choice := _choice(result):
        yield f"training {choice}"
        if choice.optimism:
            yield f"note: {choice.optimism}"
    yield from map(str, judges_of(made))
    package, uploaded, registered = made.get("package"), made.get("upload"), made.get("register")
    yield f"\nrecord      {path_from_here(result.folder / 'run.json')}"
    if (page := result.folder / PAGE_NAME).is_file():
        yield f"page        {path_from_here(page)}"
    if isinstance(package, ModelPackage):
        yield f"model       {path_from_here(package.model_dir)}"
    if isinstance(uploaded, UploadedModel):
        yield f"uploaded    {uploaded.uri}"
    if isinstance(registered, RegisteredModel):
        yield f"registered  {registered.name} version {registered.version} in {registered.address}"
    for what, line in next_steps(result.folder, result.record, made).items():
        yield f"{what:<12}{line}"


def score_lines(after: EvalReport, before: EvalReport | None, comparison: ModelComparison | None) -> Iterator[str]:
    """Yield a line per score, warnings about what got worse and what does not compare, and the evaluations' notes."""
    forgotten = []
    for score in after.scores:
        base = before.score(score.name) if before else None
        change = comparison.change(score.name) if comparison else None
        row = score_row(score, base, change)
        values = [f"{format_score(base.value)} → {row.after}", row.difference] if base else [row.after]
        tells = f" tell over {row.detectable}" if row.detectable else ""
        yield from _fitted([f"{row.name:<24}", *values, f"({row.samples}{tells})"])
        if change and score.task != HOLDOUT and change.verdict is Verdict.worse:
            forgotten.append(score.name)
    if comparison:
        if comparison.num_tests:
            yield "± after a score: its standard error; in brackets: where the true difference lies"
            yield "tell over: how large a true difference must be to be seen four times in five"
        yield f"differences: {comparison.explained}"
    if forgotten:
        yield f"warning: worse than before on {', '.join(forgotten)}: the model may be forgetting what it knew"
    for task in after.other_data(before) if before else ():
        yield f"warning: the data of {task} changed since the base model was scored; its scores don't compare"
    for note in after.notes_beside(before):
        yield f"note: {note}"


def _fitted(parts: Sequence[str]) -> Iterator[str]:
    """Yield lines of parts that fit a terminal of 80 columns, so that it cuts none of them."""
    line = ""
    for part in parts:
        if line and len(line) + 2 + len(part) > _WIDTH:
            yield line.rstrip()
            line = f"    {part}"
        else:
            line = f"{line}  {part}" if line else part
    yield line.rstrip()
