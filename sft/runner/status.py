"""What a run will find: the state of the world, the folder of its record, what the store has of its plan."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from sft import record
from sft.adapters.os import machine
from sft.artifacts import RegisteredModel
from sft.config.schema import EvalBackend, RegistryConfig, RunConfig
from sft.config.schema.registry import PIPELINE_RUN
from sft.planning.environment import Environment
from sft.planning.plan import Plan, Step, build_plan
from sft.planning.resources import resources_of
from sft.planning.stage_spec import STAGES
from sft.redaction import redacted
from sft.stages import held_out_set
from sft.stages.evaluate import tasks_version
from sft.stages.gate_checks import check_chosen_score, check_task_scores
from sft.stages.launcher import launcher_of
from sft.stages.model import source_version as model_version
from sft.stages.scoring import vllm_version
from sft.stages.sources import source_version as dataset_version
from sft.stages.task_checks import check_task_settings
from sft.store import Entry, Store

_ANEW = "anew"
"""As what a plan has it that a server is asked: by the next run."""


def read_environment(cfg: RunConfig) -> Environment:
    """Return what the plan can't know by itself: the state of the sources, versions, the machine.

    Raises:
        ConfigError: The pods of a TrainJob would not see what they need.
        SftError: A source is not there or can't be reached.
    """
    launcher_of(cfg.training.launcher).check_settings(cfg)
    version_of_tasks = tasks_version(cfg.eval)
    check_task_scores(cfg.eval)
    check_task_settings(cfg.eval)
    if cfg.eval.enabled:
        check_chosen_score(cfg.eval, cfg.training.select)
    return replace(
        _here(cfg),
        dataset_version=dataset_version(cfg.dataset) if cfg.dataset.uri or cfg.dataset.sources else "",
        held_out_versions={name: held_out_set.source_version(cfg, name) for name in cfg.held_out_sets},
        model_version=model_version(cfg.model),
        tasks_version=version_of_tasks,
        vllm_version=vllm_version(cfg.eval),
        server_asked=_ANEW if cfg.eval.backend is EvalBackend.local_chat_completions else "",
        versions=record.versions(),
    )


def since_when_asked(environment: Environment, previous: record.RunRecord | None) -> Environment:
    """Return the environment of a run that asks a server: nobody knows whether that has the model of another run.

    A run that was stopped goes on with what it was answered.

    Args:
        environment: As `read_environment` returns it.
        previous: What this run did so far.
    """
    if not environment.server_asked:
        return environment
    stopped = previous.steps if previous and previous.status != "done" else []
    known = (str(note.settings["server_asked"]) for note in stopped if "server_asked" in note.settings)
    return replace(environment, server_asked=next(known, f"{record.now()} {secrets.token_hex(4)}"))


def work_digest(cfg: RunConfig, goal: str | None = None) -> str:
    """Return a digest of what a run would do here: two configurations with the same one are the same work.

    So on one rank all sharding strategies are one. What a package tells of its run, and the state of the sources, which
    all points of a sweep share, don't count; a folder of tasks and an environment of vLLM count by their names.

    Args:
        cfg: A checked configuration.
        goal: As in `sft.runner.run`.

    Raises:
        ConfigError: There is no such step.
    """
    tasks, vllm = cfg.eval.include_path or "", cfg.eval.vllm.python or ""
    plan = build_plan(cfg, replace(_here(cfg), tasks_version=tasks, vllm_version=vllm))
    steps = (plan.reaching(goal) if goal else plan).steps
    work = [[step.name, step.settings] for step in steps if step.stage != "package"]
    return hashlib.sha256(msgspec.json.encode(work, order="deterministic")).hexdigest()[:20]


def _here(cfg: RunConfig) -> Environment:
    """Return only what the machine says, which it does in no time."""
    return Environment(device=machine.device(), resources=resources_of(cfg), versions={})


def run_folder(cfg: RunConfig) -> Path:
    """Return ``<run_root>/<name>-<digest of the settings>``: the same for the same settings, wherever things lie.

    Which run in Pipelines it is part of is not counted: only the last task of a pipeline says it.
    """
    settings = {key: value for key, value in msgspec.to_builtins(cfg).items() if key not in {"run_root", "sweep"}}
    registry, untouched = settings["registry"], msgspec.to_builtins(RegistryConfig())
    del registry["uri"]
    if (registry["source_kind"], registry["source_class"]) == PIPELINE_RUN:
        registry.update({name: value for name, value in untouched.items() if name.startswith("source_")})
    digest = hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).hexdigest()[:8]
    return Path(cfg.run_root) / f"{cfg.name}-{digest}"


def find_done(plan: Plan, store: Store, previous: record.RunRecord | None = None) -> dict[str, Entry]:
    """Look up which steps of a plan are already in the store.

    Args:
        plan: Of a run.
        store: Of its run root.
        previous: What that run did so far.
    """
    entries: dict[str, Entry] = {}
    for step in plan.steps:
        if all(name in entries for name in step.needs):
            digests = {name: entries[name].manifest.digest for name in step.needs}
            entry = find_artifact(step, digests, store, previous)
            if entry and not is_registry_gone(entry):
                entries[step.name] = entry
    return entries


def find_artifact(
    step: Step, digests: Mapping[str, str], store: Store, previous: record.RunRecord | None
) -> Entry | None:
    """Return a step's artifact: made of these settings and inputs on a machine like this, or anywhere by this very run.

    A run that goes on elsewhere, as the tasks of a pipeline do, takes what it made; a GPU's work is not done again
    because the next task has none.
    """
    entry = store.find(step.stage, step.key(digests))
    note = next((note for note in previous.steps if note.name == step.name and note.key), None) if previous else None
    if entry or note is None or note.key is None:
        return entry
    entry_of_run = store.find(step.stage, note.key)
    if entry_of_run is None or entry_of_run.manifest.inputs != digests:
        return None
    settings = redacted(msgspec.to_builtins(step.settings))  # as the store keeps them
    recipes_own = STAGES[step.stage].without_machine
    return entry_of_run if recipes_own(entry_of_run.manifest.settings) == recipes_own(settings) else None


def is_registry_gone(entry: Entry) -> bool:
    """Return whether the registry that an artifact names was a file that is gone."""
    entry_of_run = entry.artifact
    sqlite = entry_of_run.address.partition("sqlite:///")[2] if isinstance(entry_of_run, RegisteredModel) else ""
    return bool(sqlite) and not Path(sqlite).exists()
