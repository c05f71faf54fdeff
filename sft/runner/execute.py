"""One walk through a plan: what is in the store is taken, the rest is made, the record tells of both."""

from __future__ import annotations

import logging
import platform
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec

from sft import __version__, logs, record
from sft.adapters import signing
from sft.adapters.os import machine
from sft.artifacts import Artifact
from sft.config.schema import RunConfig
from sft.errors import Detached, SftError, StageError
from sft.file_locks import local_lock_option
from sft.files import make_folder
from sft.planning import machine_needs
from sft.planning.plan import Plan, Step, build_plan
from sft.planning.resources import Resources
from sft.planning.stage_spec import STAGES
from sft.planning.state_id import state_id
from sft.progress import Progress
from sft.runner.dispatch import perform
from sft.runner.registry_access import check_registry, check_upload, is_lost
from sft.runner.result_links import link_results
from sft.runner.run_lock import run_lock
from sft.runner.status import (
    find_artifact,
    find_done,
    is_registry_gone,
    read_environment,
    run_folder,
    since_when_asked,
)
from sft.stages.earlier_states import take_over
from sft.stages.judge import check_key
from sft.stages.launcher import launcher_of
from sft.stages.model import check_source
from sft.stages.package import check_publishing
from sft.store import Entry, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: Where ``run.json`` and ``run.log`` lie.
        artifacts: What each step made, by its name.
        nothing_to_do: Every step was done already, and so was this run.
    """

    folder: Path
    record: record.RunRecord
    artifacts: Mapping[str, Artifact]
    nothing_to_do: bool


def run(
    cfg: RunConfig,
    *,
    recipe: Path,
    command: Sequence[str],
    progress: Progress,
    goal: str | None = None,
    detach: bool = False,
    on_failure: Callable[[RunResult, SftError], None] = lambda _result, _error: None,
) -> RunResult:
    """Do what a configuration says, and nothing that is done already.

    Args:
        cfg: A checked configuration.
        recipe: Where it came from.
        command: What was typed, for the record.
        progress: The run's display.
        goal: Only this step or stage of the plan, and what it needs; None = all.
        detach: Whether the run ends once its training is at work on a cluster.
        on_failure: Called with what was made and the error, before that is raised, if a stage fails or misses a gate.

    Raises:
        ConfigError: There is no such step.
        Detached: The cluster trains.
        SftError: A stage failed. Earlier stages stay done; the same command continues.
    """
    environment = read_environment(cfg)
    if goal:
        build_plan(cfg, environment).reaching(goal)  # refused before a folder is made
    store = Store(Path(cfg.run_root) / "store")
    store.open()
    folder = run_folder(cfg).absolute()
    make_folder(folder)
    if option := local_lock_option(folder):
        progress.say(f"{cfg.run_root} is mounted with {option}: use it from one machine at a time")
    with run_lock(folder, progress), store.in_use():
        previous = record.load(folder)
        plan = build_plan(cfg, since_when_asked(environment, previous))
        plan = plan.reaching(goal) if goal else plan
        done = find_done(plan, store, previous)
        is_all_done = previous and previous.status == "done" and len(done) == len(plan.steps) and _same(previous, done)
        if previous and is_all_done and not is_lost(cfg, done.get("register"), progress):
            artifacts = {name: entry.artifact for name, entry in done.items()}
            for line in link_results(folder, artifacts):
                progress.say(line)
            return RunResult(folder, previous, artifacts, nothing_to_do=True)
        if any(step.name == "package" for step in plan.steps) and "package" not in done:
            check_publishing(cfg.registry)  # what will lack at the end is missed before anything is trained
        if any(step.stage == "judge" and step.name not in done for step in plan.steps):
            check_key(cfg.eval.judge)
        for line in (*plan.left_out, *plan.notes):
            progress.say(f"- {line}")
        is_to_train = any(step.name == "train" for step in plan.steps) and "train" not in done
        if is_to_train:
            if environment.resources:
                machine_needs.check(cfg, environment.resources, store.size_of_tries("train"))
                for line in machine_needs.notes(cfg, environment.resources):
                    progress.say(f"- {line}")
            launcher_of(cfg.training.launcher).check_access(cfg.training, folder.name, progress)
            to_do = {step.name for step in plan.steps} - done.keys()
            if "upload" in to_do:
                check_upload(cfg, progress)
            if "register" in to_do:
                check_registry(cfg, progress)
        if any(step.name == "model" for step in plan.steps) and "model" not in done:
            check_source(cfg.model)
        execution = RunExecution(
            cfg, plan, store, folder, progress, previous, environment.resources, detach, on_failure=on_failure
        )
        try:
            result = execution.execute(_record(cfg, plan, environment.resources, folder, recipe, command))
            if any(step.name == "package" for step in plan.steps):
                sign_record(folder, cfg, progress)
            return result
        except Detached as left:
            raise Detached(f"{left}; `sft attach {shlex.quote(str(folder))}` comes back to it") from left


@dataclass
class RunExecution:
    """One walk through a plan."""

    cfg: RunConfig
    plan: Plan
    store: Store
    folder: Path
    progress: Progress
    previous: record.RunRecord | None
    resources: Resources | None = None
    detach: bool = False
    suffix: str = ""
    """Of its steps' names in the record."""
    on_failure: Callable[[RunResult, SftError], None] = lambda _result, _error: None

    def execute(self, run_record: record.RunRecord, done: Mapping[str, Artifact] = MappingProxyType({})) -> RunResult:
        handler = logs.to_file(self.folder / "run.log")
        log.info("sft %s, Python %s: %s", __version__, platform.python_version(), shlex.join(run_record.command))
        (self.folder / f"{record.NAME}{signing.FILE_SUFFIX}").unlink(missing_ok=True)  # of the record that changes now
        artifacts = dict(done)
        try:
            with record.reserved(self.folder):
                try:
                    for step in self.plan.steps:
                        with run_record.noting(step.name + self.suffix, self.folder):
                            artifacts[step.name] = self._do(step, artifacts, run_record)
                    run_record.status = "done"
                finally:
                    run_record.ended_at = record.now()
                    run_record.save(self.folder)
                    for line in link_results(self.folder, artifacts):
                        self.progress.say(line)
        except BaseException as error:
            log.exception("the run ends here")
            if not isinstance(error, SftError):
                raise
            self.on_failure(RunResult(self.folder, run_record, artifacts, nothing_to_do=False), error)
            raise
        finally:
            logging.getLogger("sft").removeHandler(handler)
            handler.close()
        return RunResult(self.folder, run_record, artifacts, nothing_to_do=False)

    def _do(self, step: Step, artifacts: Mapping[str, Artifact], run_record: record.RunRecord) -> Artifact:
        inputs = {name: artifacts[name].digest for name in step.needs}
        key = step.key(inputs)
        note = run_record.step(step.name + self.suffix)
        note.key, note.inputs, note.settings = key, inputs, dict(step.settings)
        entry = find_artifact(step, inputs, self.store, self.previous)
        lost = entry if is_lost(self.cfg, entry, self.progress) else None
        if entry is None or lost or is_registry_gone(entry):
            with self.progress.stage(step.name):
                entry, is_new = self._find_or_make(step, key, inputs, artifacts, run_record, lost)
        else:
            is_new = False
        note.key = entry.manifest.key
        note.reused, note.seconds, note.path = not is_new, entry.manifest.seconds, str(entry.path)
        note.output, note.files = entry.manifest.digest, entry.manifest.files
        note.facts, note.settings = entry.manifest.facts, entry.manifest.settings
        how = f"✓ {step.name}: {entry.manifest.seconds:.1f} s" if is_new else f"= {step.name}: done before"
        self.progress.say(f"{how}, {entry.path}")
        return entry.artifact

    def _find_or_make(
        self,
        step: Step,
        key: str,
        inputs: Mapping[str, str],
        artifacts: Mapping[str, Artifact],
        run_record: record.RunRecord,
        lost: Entry | None,
    ) -> tuple[Entry, bool]:
        """Return what another run made while we waited for it, else make it; and whether we made it."""
        with self.store.lock(step.stage, key, lambda: self.progress.update("waiting: another run makes it")):
            entry = self.store.find(step.stage, key)
            if entry and (is_registry_gone(entry) or (lost and entry.manifest == lost.manifest)):
                self.store.discard(entry)
                entry = None
            return (entry, False) if entry else (self._make(step, key, inputs, artifacts, run_record), True)

    def _make(
        self,
        step: Step,
        key: str,
        inputs: Mapping[str, str],
        artifacts: Mapping[str, Artifact],
        run_record: record.RunRecord,
    ) -> Entry:
        out = self.store.staging(step.stage, key, resume=STAGES[step.stage].is_resumable)
        log.info("%s starts in %s", step.name, out)
        if step.stage == "train" and self.resources:
            with self.store.idle_tries(step.stage, key) as tries:
                if taken := take_over(tries, out, state_id(step, inputs), self.resources):
                    self.progress.say(taken)
        started = time.monotonic()
        artifact = perform(
            step,
            self.cfg,
            artifacts,
            run_record=run_record,
            folder=self.folder,
            out=out,
            progress=self.progress,
            resources=self.resources,
            detach=self.detach,
        )
        entry = self.store.publish(
            key,
            step.stage,
            artifact,
            settings=step.settings,
            inputs=inputs,
            seconds=time.monotonic() - started,
            shared=[artifacts[name].root for name in step.needs],
        )
        log.info("%s ended after %.1f s: %s %s", step.name, entry.manifest.seconds, entry.path, entry.manifest.digest)
        return entry


def sign_record(folder: Path, cfg: RunConfig, progress: Progress) -> None:
    """Sign a run's record where models are signed: the model's own signature covers what came before it, not the rest.

    A machine that only registers what another one has packaged may have no key; then that is said.
    """
    try:
        if signer := signing.signer(cfg.registry.sign):
            signing.sign_file(folder / record.NAME, signer)
    except StageError as error:
        progress.say(f"{record.NAME} is not signed: {error.message}")


def _record(
    cfg: RunConfig, plan: Plan, resources: Resources | None, folder: Path, recipe: Path, command: Sequence[str]
) -> record.RunRecord:
    return record.begin(
        run_id=folder.name,
        recipe=recipe,
        command=command,
        config={name: value for name, value in msgspec.to_builtins(cfg).items() if name != "sweep"},
        gpus=machine.gpus(),
        resources=resources.explained() if resources and any(step.name == "train" for step in plan.steps) else {},
        steps=[step.name for step in plan.steps],
    )


def _same(previous: record.RunRecord, done: Mapping[str, Entry]) -> bool:
    """Return whether a record tells of all of this, and perhaps of more."""
    recorded = {step.name: step.output for step in previous.steps}
    return all(recorded.get(name) == entry.manifest.digest for name, entry in done.items())
