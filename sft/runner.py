"""Owns a run: walks the plan, takes from the store what is there, makes the rest, and keeps the record.

Each step is one `match` case that maps artifacts to a stage's inputs; what a stage does is its own business.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import filelock
import msgspec

from sft import logs, record
from sft.adapters import machine
from sft.artifacts import (
    Artifact,
    CheckpointArtifact,
    DatasetArtifact,
    EvalReport,
    ModelArtifact,
    RegisteredModel,
    TokenizedArtifact,
)
from sft.config.flat import flat
from sft.config.schema import RunConfig
from sft.plan import Circumstances, Plan, Step, build_plan
from sft.progress import Progress
from sft.stages import hardware
from sft.stages.dataset import dataset
from sft.stages.dataset import source_version as dataset_version
from sft.stages.evaluate import EvaluateInputs, evaluate, tasks_version
from sft.stages.model import ModelInputs, model
from sft.stages.model import source_version as model_version
from sft.stages.register import RegisterInputs, register
from sft.stages.tokenize import TokenizeInputs, tokenize
from sft.stages.train import TrainInputs, join, train
from sft.store import Entry, Store

_RESUMABLE = {"dataset", "train"}
"""Stages that go on from what a killed try has left: a download, a full state."""

_LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)
A = TypeVar("A", bound=Artifact)


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


def circumstances(cfg: RunConfig) -> Circumstances:
    """What the plan can't know by itself: the state of the sources, versions, the machine.

    Raises:
        SftError: A source is not there or can't be reached.
    """
    return Circumstances(
        dataset_version=dataset_version(cfg.dataset),
        model_version=model_version(cfg.model),
        tasks_version=tasks_version(cfg.eval),
        num_processes=hardware.fit(cfg.training).world_size,
        device=machine.device(),
        versions=record.versions(),
    )


def run_folder(cfg: RunConfig) -> Path:
    """``<run_root>/<name>-<digest of the settings>``: the same settings have the same folder."""
    settings = {key: value for key, value in msgspec.to_builtins(cfg).items() if key != "run_root"}
    digest = hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).hexdigest()[:8]
    return Path(cfg.run_root) / f"{cfg.name}-{digest}"


def found(plan: Plan, store: Store) -> dict[str, Entry]:
    """What the store has of a plan. A step is looked up only where all its inputs are known."""
    entries: dict[str, Entry] = {}
    for step in plan.steps:
        if all(name in entries for name in step.needs):
            key = step.key({name: entries[name].manifest.digest for name in step.needs})
            entry = store.find(step.stage, key)
            if entry and not _is_lost(entry):
                entries[step.name] = entry
    return entries


def _is_lost(entry: Entry) -> bool:
    """Whether the registry that an artifact speaks of was a file that is gone."""
    made = entry.artifact
    sqlite = made.address.partition("sqlite:///")[2] if isinstance(made, RegisteredModel) else ""
    return bool(sqlite) and not Path(sqlite).exists()


def run(cfg: RunConfig, *, recipe: Path, command: Sequence[str], progress: Progress) -> RunResult:
    """Does what a configuration says, and nothing that is done already.

    Args:
        cfg: A checked configuration.
        recipe: Where it came from.
        command: What was typed, for the record.
        progress: The run's display.

    Raises:
        SftError: A stage failed. Earlier stages stay done; the same command continues.
    """
    plan = build_plan(cfg, circumstances(cfg))
    store = Store(Path(cfg.run_root) / "store")
    store.open()
    folder = run_folder(cfg).absolute()
    folder.mkdir(exist_ok=True)
    with _alone(folder, progress), store.in_use():
        have = found(plan, store)
        previous = record.load(folder)
        if previous and previous.status == "done" and len(have) == len(plan.steps) and _same(previous, have):
            artifacts = {name: entry.artifact for name, entry in have.items()}
            return RunResult(folder, previous, artifacts, nothing_to_do=True)
        for line in plan.left_out:
            progress.say(f"- {line}")
        return _Run(cfg, plan, store, folder, progress).walk(_record(cfg, plan, folder, recipe, command))


def follows(cfg: RunConfig) -> bool:
    """Whether this machine only takes part in the training of another, node 0."""
    return hardware.fit(cfg.training).nodes.rank > 0


def follow(cfg: RunConfig, *, progress: Progress) -> None:
    """What a node does that is not the first: waits for node 0's data and model, and trains with it.

    Args:
        cfg: A checked configuration, the same as on node 0 but for `training.launcher.node_rank`.
        progress: The run's display.

    Raises:
        SftError: The training failed.
    """
    plan = build_plan(cfg, circumstances(cfg))
    store = Store(Path(cfg.run_root) / "store")
    store.open()
    steps = {step.name: step for step in plan.steps}
    have: dict[str, Artifact] = {}

    def key(step: Step) -> str:
        return step.key({needed: have[needed].digest for needed in step.needs})

    with store.in_use(), progress.stage("train"):
        for name in ("dataset", "model", "tokenize"):
            step = steps[name]
            while (entry := store.find(step.stage, key(step))) is None:
                progress.update(f"waits for {name} of node 0")
                time.sleep(_LOOK_SECONDS)
            have[name] = entry.artifact
        base, tokens = _get(have, "model", ModelArtifact), _get(have, "tokenize", TokenizedArtifact)
        trained = key(steps["train"])
        if store.find("train", trained) is None:
            progress.update("waits for node 0")
            inputs = TrainInputs(model=base, tokenized=tokens, run_name=cfg.name)
            join(cfg.training, inputs, store.staging_path("train", trained), progress)
    progress.say("✓ train: the part of this node; node 0 does the rest")


@dataclass
class _Run:
    """One walk through a plan."""

    cfg: RunConfig
    plan: Plan
    store: Store
    folder: Path
    progress: Progress

    def walk(self, rec: record.RunRecord) -> RunResult:
        handler = logs.to_file(self.folder / "run.log")
        artifacts: dict[str, Artifact] = {}
        try:
            for step in self.plan.steps:
                with rec.noting(step.name, self.folder):
                    artifacts[step.name] = self._do(step, artifacts, rec)
            rec.status = "done"
        finally:
            rec.ended_at = record.now()
            rec.save(self.folder)
            logging.getLogger("sft").removeHandler(handler)
            handler.close()
        return RunResult(self.folder, rec, artifacts, nothing_to_do=False)

    def _do(self, step: Step, artifacts: Mapping[str, Artifact], rec: record.RunRecord) -> Artifact:
        inputs = {name: artifacts[name].digest for name in step.needs}
        key = step.key(inputs)
        note = rec.step(step.name)
        note.key, note.inputs = key, inputs
        entry = self.store.find(step.stage, key)
        if entry is None or _is_lost(entry):
            with self.progress.stage(step.name):
                entry, made = self._find_or_make(step, key, inputs, artifacts)
        else:
            made = False
        note.reused, note.seconds, note.path = not made, entry.manifest.seconds, str(entry.path)
        note.output, note.files, note.facts = entry.manifest.digest, entry.manifest.files, entry.manifest.facts
        how = f"✓ {step.name}: {entry.manifest.seconds:.1f} s" if made else f"= {step.name}: done before"
        self.progress.say(f"{how}, {entry.path}")
        return entry.artifact

    def _find_or_make(
        self, step: Step, key: str, inputs: Mapping[str, str], artifacts: Mapping[str, Artifact]
    ) -> tuple[Entry, bool]:
        """What another run made while we waited for it, else what we make; and whether we did."""
        with self.store.lock(step.stage, key, lambda: self.progress.update("waiting: another run makes it")):
            entry = self.store.find(step.stage, key)
            if entry and _is_lost(entry):
                self.store.discard(entry)
                entry = None
            return (entry, False) if entry else (self._make(step, key, inputs, artifacts), True)

    def _make(self, step: Step, key: str, inputs: Mapping[str, str], artifacts: Mapping[str, Artifact]) -> Entry:
        out = self.store.staging(step.stage, key, resume=step.stage in _RESUMABLE)
        log.info("%s starts in %s", step.name, out)
        started = time.monotonic()
        made = self._stage(step, artifacts, out)
        seconds = time.monotonic() - started
        entry = self.store.publish(key, step.stage, made, settings=step.settings, inputs=inputs, seconds=seconds)
        log.info("%s ended after %.1f s: %s %s", step.name, seconds, entry.path, entry.manifest.digest)
        return entry

    def _stage(self, step: Step, have: Mapping[str, Artifact], out: Path) -> Artifact:
        cfg, progress = self.cfg, self.progress
        match step.name:
            case "dataset":
                return dataset(cfg.dataset, out, progress)
            case "model":
                data = _get(have, "dataset", DatasetArtifact)
                return model(cfg.model, ModelInputs(dataset=data), out, progress)
            case "tokenize":
                data, base = _get(have, "dataset", DatasetArtifact), _get(have, "model", ModelArtifact)
                return tokenize(
                    cfg.training,
                    TokenizeInputs(dataset=data, model=base, on_invalid=cfg.dataset.on_invalid),
                    out,
                    progress,
                )
            case "train":
                base, tokens = _get(have, "model", ModelArtifact), _get(have, "tokenize", TokenizedArtifact)
                return train(cfg.training, TrainInputs(model=base, tokenized=tokens, run_name=cfg.name), out, progress)
            case "evaluate:base" | "evaluate:tuned":
                return evaluate(cfg.eval, self._evaluate_inputs(step.name, have), out, progress)
            case "register":
                return register(cfg.registry, self._register_inputs(have), out, progress)
            case _:
                raise AssertionError(f"no stage for step {step.name}")

    def _evaluate_inputs(self, name: str, have: Mapping[str, Artifact]) -> EvaluateInputs:
        base = _get(have, "model", ModelArtifact)
        scored = base if name == "evaluate:base" else _get(have, "train", CheckpointArtifact)
        return EvaluateInputs(
            model_dir=scored.model_dir,
            model_digest=scored.digest,
            trust_remote_code=base.trust_remote_code,
            dataset=_get(have, "dataset", DatasetArtifact),
        )

    def _register_inputs(self, have: Mapping[str, Artifact]) -> RegisterInputs:
        root = Path(self.cfg.run_root).absolute()
        return RegisterInputs(
            run_id=self.folder.name,
            run_record=self.folder / record.NAME,
            base=_get(have, "model", ModelArtifact),
            dataset=_get(have, "dataset", DatasetArtifact),
            checkpoint=_get(have, "train", CheckpointArtifact),
            baseline=_get(have, "evaluate:base", EvalReport) if "evaluate:base" in have else None,
            report=_get(have, "evaluate:tuned", EvalReport) if "evaluate:tuned" in have else None,
            parameters=flat(self.cfg, ("model", "dataset", "training", "eval")),
            git_commit=record.git_commit(Path.cwd()),
            versions=record.versions(),
            mlflow_uri=f"sqlite:///{root / 'mlflow.db'}",
            mlflow_artifacts=root / "mlflow-artifacts",
        )


def _get(have: Mapping[str, Artifact], name: str, kind: type[A]) -> A:
    artifact = have[name]
    if not isinstance(artifact, kind):
        raise TypeError(f"{name} made {type(artifact).__name__}, not {kind.__name__}")
    return artifact


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """One process at a time writes a run's record; another one with the same settings waits, then finds it done."""
    lock = filelock.FileLock(folder / ".lock")
    told = False
    while True:
        try:
            lock.acquire(timeout=1.0 if told else 0.0)
            break
        except filelock.Timeout:
            if not told:
                progress.say(f"the same run is at work in another process; waiting for it ({folder})")
            told = True
    try:
        yield
    finally:
        lock.release()


def _record(cfg: RunConfig, plan: Plan, folder: Path, recipe: Path, command: Sequence[str]) -> record.RunRecord:
    return record.begin(
        run_id=folder.name,
        recipe=recipe,
        command=command,
        config=msgspec.to_builtins(cfg),
        gpus=machine.gpus(),
        steps=[step.name for step in plan.steps],
    )


def _same(previous: record.RunRecord, have: Mapping[str, Entry]) -> bool:
    return {step.name: step.output for step in previous.steps} == {n: e.manifest.digest for n, e in have.items()}
