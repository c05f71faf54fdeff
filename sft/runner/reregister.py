"""What is done with a run that has ended: its model is registered, where nothing was or somewhere else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sft import record
from sft.artifacts import ModelPackage
from sft.config.schema import RunConfig
from sft.errors import DataError, VerificationError
from sft.logs import redacted
from sft.planning.plan import Plan, Step, build_plan
from sft.planning.stage_spec import Environment
from sft.progress import Progress
from sft.runner.dispatch import pick
from sft.runner.execute import RunExecution, RunResult, run_lock
from sft.runner.verify import verify
from sft.store import Store


def reregister(cfg: RunConfig, *, folder: Path, progress: Progress) -> RunResult:
    """Do what a plan has after the package, for a run that has made one.

    Args:
        cfg: The run's own settings, but for its registry.
        folder: Of the run. Its record tells of this too: a second registration as ``register:2``.
        progress: The run's display.

    Raises:
        DataError: There is no run in the folder, or it has made no model.
        VerificationError: The model is no longer what the run has made.
        SftError: A stage failed; the record's status stays.
    """
    store = Store(folder.parent / "store")
    store.open()
    with run_lock(folder, progress), store.in_use():
        rec = record.load(folder)
        if rec is None:
            raise DataError(f"{folder}: no {record.NAME} there", fix="a run's folder")
        entries = {
            s.name: store.find(s.name.partition(":")[0], s.key) for s in rec.steps if s.key and s.status == "done"
        }
        have = {name: entry.artifact for name, entry in entries.items() if entry}
        plan = build_plan(cfg, Environment(versions=rec.versions))
        names = [step.name for step in plan.steps]
        made, later = plan.steps[: names.index("package") + 1], plan.steps[names.index("package") + 1 :]
        if absent := [step.name for step in made if step.name not in have]:
            what = f"{folder}: its {' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not there"
            raise DataError(what, fix="finish the run first: its command goes on")
        _check_unchanged(pick(have, "package", ModelPackage), rec)
        before, suffix = rec.status, _suffix(later, rec)
        known = {note.name for note in rec.steps}
        added = [record.StepRecord(name=name) for s in later if (name := s.name + suffix) not in known]
        rec.steps += added
        try:
            result = RunExecution(cfg, Plan(later), store, folder, progress, rec, suffix=suffix).execute(rec, have)
        except BaseException:
            rec.status = before
            rec.steps = [note for note in rec.steps if note.status != "pending" or note not in added]
            rec.save(folder)
            raise
        rec.status = "done" if all(step.status == "done" for step in rec.steps) else before
        rec.save(folder)
        return result


def _check_unchanged(package: ModelPackage, rec: record.RunRecord) -> None:
    """Hash the model again: time has passed since it was made, and what is registered must be what was recorded."""
    found = verify(package.model_dir)
    if not found.problems and found.digest != rec.step("package").output:
        found.problems.append(f"{package.model_dir}: its digest is {found.digest}, not what the run's record says")
    if found.problems:
        raise VerificationError(found.what, found.problems)


def _suffix(steps: Sequence[Step], rec: record.RunRecord) -> str:
    """Return what keeps steps apart, by name, from others like them in the record: ``:2``, ``:3``."""
    noted = {note.name: note.settings for note in rec.steps if note.status == "done"}
    wanted = {step.name: redacted(msgspec.to_builtins(step.settings)) for step in steps}
    suffixes = itertools.chain([""], (f":{number}" for number in itertools.count(2)))
    return next(s for s in suffixes if all(noted.get(n + s) in (None, settings) for n, settings in wanted.items()))
