"""``run.html``: what was made and of what, is it better, did it pass, how it learned, where it is, how to repeat it."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

from sft.artifacts import (
    CheckpointArtifact,
    DatasetArtifact,
    EvalReport,
    GateReport,
    ModelArtifact,
    ModelComparison,
    ModelPackage,
    RegisteredModel,
    TokenizedArtifact,
    UploadedModel,
)
from sft.files import path_from_here
from sft.redaction import redact
from sft.report import changed_samples, learning, provenance, run_data, verdicts
from sft.report.comparison.text import time_text
from sft.report.next_steps import next_steps
from sft.report.page import as_page, pairs, section, tiles
from sft.report.run_view import RunView
from sft.report.source_losses import by_set, by_source
from sft.report.timeline import time_line
from sft.scores import Verdict
from sft.stages.epoch_scores import epochs_of
from sft.stages.judge import judges_of
from sft.stages.select import trained_checkpoint

_STATES = {
    "done": "done",
    "failed": "failed",
    "interrupted": "interrupted",
    "running": "at work",
    "stopped": "not finished: it was killed",
    "pending": "not begun",
}


def as_html(view: RunView, *, poll_seconds: float | None = None) -> str:
    """Return the page of a run, without secrets.

    Args:
        view: The run, finished or not.
        poll_seconds: How often the page asks for itself again while the run is at work; None = it is a file.
    """
    parts = [_head(view), _error(view), *_results(view), _where(view), _learned(view), run_data.sections(view)]
    parts += [
        changed_samples.section(view.made("compare", ModelComparison)),
        time_line(view),
        provenance.commands(view),
        *provenance.sections(view),
    ]
    return redact(as_page(view.record.run_id, "\n".join(filter(None, parts)), poll_seconds=poll_seconds))


def _head(view: RunView) -> str:
    state = f'<span class="state {view.state}">{html.escape(_STATES[view.state])}</span>'
    when = f"begun {view.record.started_at}"
    if view.record.ended_at:
        when += f", ended {view.record.ended_at}"
    damage = f"<p>{html.escape(view.damage)}</p>" if view.damage else ""
    return f"<p>{state} {html.escape(when)}</p>{damage}{tiles(_facts(view))}"


def _facts(view: RunView) -> Iterator[tuple[str, str]]:
    """Yield what was made and of what, a figure and its meaning each."""
    base, rows = view.made("model", ModelArtifact), view.made("dataset", DatasetArtifact)
    tokens, trained = view.made("tokenize", TokenizedArtifact), view.made("train", CheckpointArtifact)
    if base is not None:
        size = f"{_short(base.num_parameters)} parameters" if base.num_parameters else "base model"
        name = Path(base.source).name if base.source.startswith("/") else base.source
        yield size, f"base model {name}"
    if rows is not None:
        num = tokens.num_samples if tokens and tokens.num_samples else rows.num_train
        yield f"{num:,} samples", f"to train on, from {rows.source}"
    if trained is not None:
        steps = "1 step" if trained.num_steps == 1 else f"{trained.num_steps:,} steps"
        yield steps, f"{trained.num_epochs:g} epochs on {trained.ran_on}, final loss {trained.final_loss:.4f}"
    comparison, gates = view.made("compare", ModelComparison), view.made("gates", GateReport)
    if comparison is not None:
        verdicts_of = [change.verdict for change in comparison.changes]
        better, worse = verdicts_of.count(Verdict.better), verdicts_of.count(Verdict.worse)
        yield f"{better} of {len(verdicts_of)}", f"scores better than the base model's; {worse} worse"
    if gates is not None:
        passed = len(gates.passed)
        yield "passed", "its gate" if passed == 1 else f"all {passed} gates"
    elif any(step.name == "gates" and step.status == "failed" for step in view.record.steps):
        yield "not passed", "it misses a gate, and is not registered"
    spent = sum(step.seconds or 0.0 for step in view.record.steps if not step.reused)
    if spent:
        yield time_text(spent), "of work in this run"


def _short(number: int) -> str:
    """Return a number of parameters as people call it: ``135M``."""
    for size, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{name}"
    return str(number)


def _error(view: RunView) -> str:
    why = view.why
    if why is None and view.state != "stopped":
        return ""
    text = why or "Its process is gone without a word: killed, or the machine went down. The same command continues."
    return section("What happened", f'<pre class="block">{html.escape(text)}</pre>')


def _results(view: RunView) -> Iterator[str]:
    tuned = view.made("evaluate:tuned", EvalReport)
    if tuned is not None:
        base, comparison = view.made("evaluate:base", EvalReport), view.made("compare", ModelComparison)
        judges, epochs = judges_of(view.artifacts), epochs_of(view.artifacts)
        trained = trained_checkpoint(view.artifacts)
        yield from verdicts.sections(tuned, base, comparison, judges, epochs, trained.choice if trained else None)
    elif (base := view.made("evaluate:base", EvalReport)) is not None:
        yield from verdicts.of_base(base)
    if gates := view.made("gates", GateReport):
        listed = "".join(f"<li>{html.escape(line)}</li>" for line in gates.passed)
        yield section("Did it pass?", f"<ul>{listed}</ul>", "It passed these gates.")


def _learned(view: RunView) -> str:
    logs = view.training_logs
    if logs is None:
        return ""
    trained = trained_checkpoint(view.artifacts)
    choice = f"<p>The training {html.escape(trained.choice.told)}.</p>" if trained and trained.choice else ""
    resumes, validations = learning.read_resumes(logs), learning.read_validations(logs)
    content = learning.charts(learning.read_steps(logs), resumes, validations) + by_source(logs) + by_set(logs)
    text = "Point at a chart to read a step; drag to zoom, double-click for all."
    return section("How it learned", choice + content, text)


def _where(view: RunView) -> str:
    """Return the section on where things are, and what can be done with the model."""
    package, uploaded = view.made("package", ModelPackage), view.made("upload", UploadedModel)
    registered = view.made("register", RegisteredModel)
    places = {"record": str(path_from_here(view.folder / "run.json"))}
    if package is not None:
        places["model"] = str(path_from_here(package.model_dir))
    if uploaded is not None:
        places["uploaded"] = uploaded.uri
    if registered is not None:
        places["registered"] = f"{registered.name} version {registered.version} in {registered.address}"
    used = "".join(
        f'<p>{html.escape(what)}</p><pre class="block">{html.escape(line)}</pre>'
        for what, line in next_steps(view.folder, view.record, view.artifacts).items()
    )
    return section("Where it is", pairs(places) + used)
