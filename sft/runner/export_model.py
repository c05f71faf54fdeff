"""Export the model of a finished run: written beside its final place, read back, scored, and only then given its name.

Who is killed leaves a hidden folder ``.NAME.partial-…`` beside it, and nothing under the name itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft import DISTRIBUTION, __version__
from sft.artifacts import CheckpointArtifact, EvalReport
from sft.config.schema import RunConfig
from sft.errors import ConfigError, GateError, Problem
from sft.files import sync
from sft.progress import Progress
from sft.runner.dispatch import pick
from sft.runner.export_formats import Exported, gates_passed, make
from sft.runner.export_request import ExportRequest, check_request
from sft.runner.export_scores import TUNED, check_scorable, score_export
from sft.runner.finished_run import FinishedRun, finished_run
from sft.stages.export_card import ExportFacts, ExportScores, Outcome, write
from sft.stages.select import trained_step

_WORK, _FILES = "work", "files"


def export_model(cfg: RunConfig, *, folder: Path, request: ExportRequest, progress: Progress) -> ExportScores:
    """Export a run's model into a folder of its own, and return how that compares with the run's model.

    Args:
        cfg: The run's own settings.
        folder: Of the run; nothing in it is changed.
        request: What is asked for.
        progress: The command's display.

    Raises:
        ConfigError: The folder is there already, or an option is wrong.
        DataError: There is no run, or it has made no model.
        GateError: The export misses a gate. It is kept only if that was asked for.
        SftError: It can't be written so, is not read back as it was, or could not be scored.
    """
    _refuse_existing(request.output)
    check_request(request)
    with finished_run(folder) as run, _partial(request.output) as partial:
        check_scorable(cfg, run)
        files, work = partial / _FILES, partial / _WORK
        with progress.stage(f"export: {request.format.value}"):
            made = make(cfg, run, request, files, work, progress)
            for line in (*made.lines, *made.notes):
                progress.say(f"  {line}")
        if made.model_dir is None:
            scores = _own_scores(run)
        else:
            with progress.stage("export: scores"):
                scores = score_export(cfg, run, made.model_dir, work, progress)
        if scores.outcome is Outcome.failed and not request.keep:
            fix = "another --type, or --keep to have it all the same"
            raise GateError(scores.missed, what="the export", so="so it is not kept", fix=fix)
        write(files, _facts(cfg, run, request, made), scores)
        _publish(files, request.output)
    if scores.outcome is Outcome.failed:
        kept = f"and is kept in {request.output}, marked as failed"
        raise GateError(scores.missed, what="the export", so=kept)
    return scores


def _refuse_existing(output: Path) -> None:
    if output.exists() or output.is_symlink():
        rule = "is there already, and nothing is overwritten"
        raise ConfigError([Problem(key="--output", value=str(output), rule=rule, suggestion="name a new folder")])


@contextmanager
def _partial(output: Path) -> Iterator[Path]:
    """Make a hidden folder beside the final one, and remove what is left of it in the end."""
    folder = output.with_name(f".{output.name}.partial-{os.urandom(4).hex()}")
    try:
        (folder / _FILES).mkdir(parents=True)
    except OSError as error:
        rule = f"can't be made ({error.strerror})"
        raise ConfigError([Problem(key="--output", value=str(output), rule=rule)]) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _publish(files: Path, output: Path) -> None:
    for file in files.rglob("*"):
        sync(file)
    _refuse_existing(output)  # somebody else may have made it in the meantime
    files.rename(output)
    sync(output.parent)


def _own_scores(run: FinishedRun) -> ExportScores:
    """Return the run's own scores, of files that are not changed."""
    tuned = pick(run.artifacts, TUNED, EvalReport) if TUNED in run.artifacts else None
    return ExportScores(tuned=tuned, passed=gates_passed(run), is_unchanged=True)


def _facts(cfg: RunConfig, run: FinishedRun, request: ExportRequest, made: Exported) -> ExportFacts:
    return ExportFacts(
        format=request.format,
        kind=made.kind,
        title=cfg.registry.model_name,
        license_name=cfg.registry.license,
        source={
            "run": run.record.run_id,
            "record": run.package.record_digest,
            "package": run.package.digest,
            "checkpoint": pick(run.artifacts, trained_step(run.artifacts), CheckpointArtifact).digest,
        },
        versions={DISTRIBUTION: __version__, **made.versions},
        details=made.details,
        scored_as=made.scored_as,
        use=made.use,
        notes=made.notes,
    )
