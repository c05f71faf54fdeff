"""What is done with a run that has ended: its model is registered, where nothing was or somewhere else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sft import record
from sft.adapters import sbom
from sft.artifacts import ModelPackage
from sft.config.schema import RegistryConfig, RunConfig
from sft.errors import ConfigError, DataError, Problem, VerificationError
from sft.planning.environment import Environment
from sft.planning.plan import Plan, Step, build_plan
from sft.progress import Progress
from sft.redaction import redacted
from sft.runner.dispatch import pick
from sft.runner.execute import RunExecution, RunResult, sign_record
from sft.runner.run_lock import run_lock
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
        ConfigError: A signature or a bill of materials is asked for, and the model was packaged without.
        VerificationError: The model is no longer what the run has made.
        SftError: A stage failed; the record's status stays.
    """
    store = Store(folder.parent / "store")
    store.open()
    with run_lock(folder, progress), store.in_use():
        run_record = record.load(folder)
        if run_record is None:
            raise DataError(f"{folder}: no {record.NAME} there", fix=record.nearest_run(folder, "a run's folder"))
        entries = {
            s.name: store.find(s.name.partition(":")[0], s.key)
            for s in run_record.steps
            if s.key and s.status == "done"
        }
        artifacts = {name: entry.artifact for name, entry in entries.items() if entry}
        plan = build_plan(cfg, Environment(versions=run_record.versions))
        names = [step.name for step in plan.steps]
        to_package, after_package = plan.steps[: names.index("package") + 1], plan.steps[names.index("package") + 1 :]
        if absent := [step.name for step in to_package if step.name not in artifacts]:
            what = f"{folder}: its {' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not there"
            raise DataError(what, fix="finish the run first: its command goes on")
        package = pick(artifacts, "package", ModelPackage)
        _refuse_unpackaged(cfg.registry, package)
        check_unchanged(package, run_record)
        before, suffix = run_record.status, _suffix(after_package, run_record)
        known = {note.name for note in run_record.steps}
        added = [record.StepRecord(name=name) for s in after_package if (name := s.name + suffix) not in known]
        run_record.steps += added
        try:
            result = RunExecution(cfg, Plan(after_package), store, folder, progress, run_record, suffix=suffix).execute(
                run_record, artifacts
            )
        except BaseException:
            run_record.status = before
            run_record.steps = [note for note in run_record.steps if note.status != "pending" or note not in added]
            run_record.save(folder)
            sign_record(folder, cfg, progress)  # else what failed would leave the record without its signature
            raise
        run_record.status = "done" if all(step.status == "done" for step in run_record.steps) else before
        run_record.save(folder)
        sign_record(folder, cfg, progress)
        return result


def _refuse_unpackaged(cfg: RegistryConfig, package: ModelPackage) -> None:
    """Raise ConfigError if something is to lie in the model's folder that does not: nothing is packaged again here."""
    absent = {
        "registry.sign": bool(cfg.sign) and not package.signed,
        "registry.sbom": cfg.sbom and not (package.model_dir / sbom.NAME).is_file(),
    }
    rule = "is for a model that is being packaged, and this one was packaged without it"
    fix = "repeat the run's own command with it: of what is done only the package is made anew"
    if problems := [Problem(key=key, rule=rule, suggestion=fix) for key, is_absent in absent.items() if is_absent]:
        raise ConfigError(problems)


def check_unchanged(package: ModelPackage, run_record: record.RunRecord) -> None:
    """Hash the model again: time has passed since it was made, and what is registered must be what was recorded."""
    found = verify(package.model_dir)
    if not found.problems and found.digest != run_record.step("package").output:
        found.problems.append(f"{package.model_dir}: its digest is {found.digest}, not what the run's record says")
    if found.problems:
        raise VerificationError(found.what, found.problems)


def _suffix(steps: Sequence[Step], run_record: record.RunRecord) -> str:
    """Return what keeps steps apart, by name, from others like them in the record: ``:2``, ``:3``."""
    noted = {note.name: note.settings for note in run_record.steps if note.status == "done"}
    wanted = {step.name: redacted(msgspec.to_builtins(step.settings)) for step in steps}
    suffixes = itertools.chain([""], (f":{number}" for number in itertools.count(2)))
    return next(s for s in suffixes if all(noted.get(n + s) in (None, settings) for n, settings in wanted.items()))
