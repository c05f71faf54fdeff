"""What a run ends with: where everything is, and each score before and after; as lines, and the scores as a page."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sft.artifacts import (
    DatasetArtifact,
    EvalReport,
    JudgeReport,
    ModelComparison,
    ModelPackage,
    RegisteredModel,
    TokenizedArtifact,
    UploadedModel,
)
from sft.config.schema import HOLDOUT
from sft.config.ways_out import value_of
from sft.errors import SftError
from sft.files import path_from_here
from sft.redaction import redact
from sft.report import changed_samples
from sft.report.page import PAGE
from sft.runner import RunResult
from sft.runner.result_links import MODEL_LINK
from sft.scores import TELLS_OVER, Verdict, format_score, score_row
from sft.stages.dataset import source_lines
from sft.stages.epoch_scores import epoch_table, epochs_of
from sft.stages.judge import judges_of

PAGE_NAME = "run.html"
_WIDTH = 80


def as_html(
    title: str,
    tuned: EvalReport,
    base: EvalReport | None,
    comparison: ModelComparison | None,
    judges: Sequence[JudgeReport] = (),
    epochs: Mapping[int, EvalReport] | None = None,
    error: SftError | None = None,
    data: Sequence[str] = (),
) -> str:
    """Return the scores, and the samples that changed most, as one page that needs nothing else.

    Args:
        title: The run's name.
        tuned: Scores of the tuned model.
        base: Scores of the base model; None where it wasn't scored.
        comparison: How they differ; None where it wasn't.
        judges: How a judge compares the two, for each held-out set that was judged.
        epochs: Scores of the models of epochs before the last, by epoch.
        error: That the run ended with; None if it did not fail.
        data: A line for each named source of the data: where its rows went, its part of the mix.
    """
    rows = []
    for score in tuned.scores:
        change = comparison.change(score.name) if comparison else None
        row = score_row(score, base.score(score.name) if base else None, change)
        cells = (row.before, row.after, row.difference, row.samples, row.detectable)
        rows.append(f"<tr><th>{html.escape(row.name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    names = ("score", "before", "after", "difference", "samples", "tells over")
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
    parts = [f"<pre>{html.escape(str(error))}</pre>"] if error else []
    parts.append(f"<table>{head}{''.join(rows)}</table>")
    if table := epoch_table(epochs or {}, tuned):
        parts.append(_html_table(table))
    parts += [f"<p>{html.escape(str(judge))}</p>" for judge in judges]
    if comparison:
        parts.append(f"<p>Differences: {comparison.explained}. {TELLS_OVER}</p>")
        parts.append(changed_samples.section(comparison.samples_file))
    if data:
        parts.append(
            "<h2>Data by source</h2><ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in data) + "</ul>"
        )
    return PAGE.format(title=html.escape(title), body="\n".join(parts))


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table, its first row and first column as heads."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = (
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in rows[1:]
    )
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def write_page(result: RunResult, error: SftError | None = None) -> Path | None:
    """Write ``run.html`` into a run's folder, and return where it is; None if the run scored nothing.

    Args:
        result: What was made.
        error: That the run ended with.
    """
    tuned, base, comparison = _scores(result)
    if tuned is None:
        return None
    page = result.folder / PAGE_NAME
    if result.nothing_to_do and page.is_file():
        return page
    epochs = epochs_of(result.artifacts)
    judges, data = judges_of(result.artifacts), _data_lines(result)
    text = as_html(result.record.run_id, tuned, base, comparison, judges, epochs, error, data)
    page.write_text(redact(text), encoding="utf-8")
    return page


def _data_lines(result: RunResult) -> list[str]:
    """Return where the rows of each named source went, then its part of the mix."""
    rows, tokens = result.artifacts.get("dataset"), result.artifacts.get("tokenize")
    of_rows = source_lines(rows.sources) if isinstance(rows, DatasetArtifact) else ()
    return [*of_rows, *(tokens.mix_lines if isinstance(tokens, TokenizedArtifact) else ())]


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
        for row in epoch_table(epochs_of(made), tuned):
            yield "  ".join(f"{cell:<19}" for cell in [f"{row[0]:<31}", *row[1:]]).rstrip()
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
    if isinstance(package, ModelPackage):
        yield from _next_steps(result)


def _next_steps(result: RunResult) -> Iterator[str]:
    """Yield how the model is loaded, talked to, served and trained further."""
    run, model = path_from_here(result.folder), path_from_here(result.folder / MODEL_LINK)
    if not (result.folder / MODEL_LINK).exists():  # a file system without links
        return
    way = " model.trust_remote_code=true" if value_of(result.record.config, "model.trust_remote_code") is True else ""
    yield f"load        AutoModelForCausalLM.from_pretrained({str(model)!r})"
    yield f"chat        sft chat {shlex.quote(str(run))}{way}"
    yield f"serve       sft serve {shlex.quote(str(run))}{way}"
    yield f"continue    sft run RECIPE model.name_or_path={shlex.quote(str(model))}{way}"


def score_lines(after: EvalReport, before: EvalReport | None, comparison: ModelComparison | None) -> Iterator[str]:
    """Yield a line per score, and a warning about what got worse and about what does not compare."""
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
