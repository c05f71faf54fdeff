"""What a run consists of: the literal sequence of steps, what each takes, and what its result depends on.

Pure: no file, no network, no heavy import. What only the world knows (the state of a source, versions of packages, the
machine) comes in as `Environment`; what of a plan is done already is the runner's to find out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from sft.config.schema import HOLDOUT, EvalBackend, ModelSource, RegistryKind, RunConfig
from sft.config.score_choice_checks import choice_notes
from sft.config.unread_settings import unread_settings
from sft.config.ways_out import ways_out
from sft.errors import ConfigError, Problem
from sft.planning.environment import Environment
from sft.planning.stage_spec import STAGES, stage_of

_LABELLED = {"training.validation_sets": "labelled"}
"""Setting of a step that labels the rows of a held-out set as those of training are."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of a run.

    Attributes:
        name: Unique in the plan: ``evaluate:base``.
        stage: What does it: ``evaluate``.
        needs: Steps whose artifacts it takes.
        settings: Everything else that determines what it makes.
    """

    name: str
    stage: str
    needs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def key(self, digests: Mapping[str, str]) -> str:
        """Return the key under which its result lies in the store, given the digest of each artifact it needs."""
        content = {"stage": self.stage, "settings": self.settings, "inputs": [digests[name] for name in self.needs]}
        return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:20]


@dataclass(frozen=True)
class Plan:
    """A run's steps in order.

    Attributes:
        left_out: What the recipe leaves out, each in a line.
        notes: Settings that do nothing in it, each in a line.
    """

    steps: tuple[Step, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def reaching(self, goal: str) -> Plan:
        """Return only the step of that name, or every step of that stage, and what they need.

        Raises:
            ConfigError: There is none.
        """
        wanted = {step.name for step in self.steps if goal in {step.name, step.stage}}
        if not wanted:
            left_out = next((line for line in self.left_out if line.startswith(f"{goal}: ")), None)
            suggestion = f"left out is {left_out}" if left_out else None
            rule = f"no such step; there are {', '.join(step.name for step in self.steps)}"
            raise ConfigError([Problem(key=goal, rule=rule, suggestion=suggestion)])
        for step in reversed(self.steps):
            wanted |= set(step.needs) if step.name in wanted else set()
        return Plan(tuple(step for step in self.steps if step.name in wanted), notes=self.notes)


def steps_up_to(cfg: RunConfig, goal: str | None) -> set[str]:
    """Return the names of the steps of a run up to `goal`; None = all of them.

    Raises:
        ConfigError: There is no such step.
    """
    plan = build_plan(cfg, Environment(versions={}))
    return {step.name for step in (plan.reaching(goal) if goal else plan).steps}


def build_plan(cfg: RunConfig, environment: Environment) -> Plan:
    """Return the steps of a run.

    Args:
        cfg: A checked configuration.
        environment: What the results depend on besides.
    """
    settings = {name: spec.determined_by(cfg, environment) for name, spec in STAGES.items()}

    def step(name: str, *needs: str, of: Mapping[str, Any] | None = None) -> Step:
        stage = stage_of(name).name
        return Step(name=name, stage=stage, needs=needs, settings=settings[stage] if of is None else of)

    model_needs = ("dataset",) if cfg.model.source is ModelSource.scratch else ()
    sets = {name: _settings_of_set(cfg, environment, name) for name in cfg.held_out_sets}
    labelled = [tokens_to_validate(name) for name in cfg.training.validation_sets]
    rows_of_sets = [step(f"dataset:{name}", of=of) for name, of in sets.items()]
    steps = [
        *rows_of_sets,
        step("dataset", *(rows.name for rows in rows_of_sets if cfg.dataset.decontaminate)),
        step("model", *model_needs),
        *(
            step(f"tokenize:{name}", f"dataset:{name}", "model", of=_tokens_of_set(cfg, environment, name))
            for name in (sets if cfg.eval.enabled else ())
        ),
        *(
            step(tokens, f"dataset:{name}", "model", of=_tokens_of_set(cfg, environment, name) | _LABELLED)
            for name, tokens in zip(cfg.training.validation_sets, labelled, strict=True)
        ),
        step("tokenize", "dataset", "model"),
        step("train", "model", "tokenize", *labelled),
    ]
    left_out = []
    scores: tuple[str, ...] = ()
    epochs: list[str] = []
    trained = "train"
    if not cfg.eval.enabled:
        left_out.append("evaluate: eval.enabled=false")
    elif cfg.eval.tasks or cfg.eval.holdout.enabled or sets:
        data = _rows_of(cfg.eval.held_out_names)
        if cfg.eval.baseline:
            steps.insert(-1, step("evaluate:base", "model", *data))
            scores = ("evaluate:base",)
        rows = _rows_of(cfg.eval.of_epochs().held_out_names)
        of_epochs = [
            step(f"evaluate:epoch-{epoch}", "train", *rows, of=_settings_of_epoch(cfg, environment, epoch))
            for epoch in cfg.scored_epochs()
        ]
        epochs = [scored.name for scored in of_epochs]
        if cfg.training.select.score:
            steps += [*of_epochs, step("select", "train", *epochs)]
            trained = "select"
        steps.append(step("evaluate:tuned", trained, *data))
        scores = (*scores, "evaluate:tuned")
        if cfg.eval.baseline:
            steps.append(step("compare", *scores))
            scores = (*scores, "compare")
        if not cfg.training.select.score:
            steps += of_epochs
        for name in cfg.eval.judged_names:
            suffix = _suffix(name)
            of_set = {**settings["judge"], "holdout": name} if suffix else None
            steps.append(step(f"judge{suffix}", f"dataset{suffix}", "evaluate:base", "evaluate:tuned", of=of_set))
            scores = (*scores, f"judge{suffix}")
        if cfg.eval.gates or cfg.eval.no_regression:
            steps.append(step("gates", *scores))
            scores = (*scores, "gates")
    else:
        left_out.append("evaluate: no eval.tasks, no eval.holdouts, and eval.holdout.enabled=false")
    steps.append(step("package", "dataset", "model", "tokenize", trained, *scores, *epochs))
    uploaded: tuple[str, ...] = ()
    if cfg.registry.upload is not None:
        steps.append(step("upload", "package"))
        uploaded = ("upload",)
    if cfg.registry.kind is RegistryKind.none:
        left_out.append("register: registry=none")
    elif cfg.registry.kind is RegistryKind.kubeflow and not cfg.registry.address:
        left_out.append("register: registry.address is empty")
    else:
        steps.append(step("register", "dataset", "model", trained, *scores, "package", *uploaded))
    opened = (f"{setting}: {meaning}" for setting, meaning in ways_out(msgspec.to_builtins(cfg)).items())
    return Plan(tuple(steps), tuple(left_out), (*opened, *unread_settings(cfg), *choice_notes(cfg), *_of_server(cfg)))


def _of_server(cfg: RunConfig) -> Iterator[str]:
    if cfg.eval.enabled and cfg.eval.backend is EvalBackend.local_chat_completions:
        yield f"eval.backend={cfg.eval.backend.name}: each run asks anew, since nobody knows which model a server has"


def tokens_to_validate(held_out: str) -> str:
    """Return the step that labels the rows of a set of `training.validation_sets`.

    It is not the one that checks them before they are scored, so that a set's scores are not made again because its
    loss is measured, too.
    """
    return f"tokenize:{held_out}:labels"


def _rows_of(held_out: Iterable[str]) -> list[str]:
    """Return the steps that make the rows of held-out sets, and say which of them can be scored."""
    return [f"{stage}{_suffix(name)}" for name in held_out for stage in ("dataset", "tokenize")]


def _suffix(held_out: str) -> str:
    """Return what the names of a held-out set's steps end in: nothing for the evaluation split."""
    return "" if held_out == HOLDOUT else f":{held_out}"


def _settings_of_epoch(cfg: RunConfig, environment: Environment, epoch: int) -> dict[str, Any]:
    """Return what determines the scores of an epoch's model, besides the training."""
    scored = replace(cfg, eval=cfg.eval.of_epochs())
    return {**STAGES["evaluate"].determined_by(scored, environment), "epoch": epoch}


def _settings_of_set(cfg: RunConfig, environment: Environment, name: str) -> dict[str, Any]:
    """Return what determines the rows of a held-out set."""
    source = replace(environment, dataset_version=environment.held_out_versions.get(name, ""))
    return STAGES["dataset"].determined_by(cfg.of_held_out_set(name), source)


def _tokens_of_set(cfg: RunConfig, environment: Environment, name: str) -> dict[str, Any]:
    """Return what determines how the rows of a held-out set are checked against the tokenizer."""
    return STAGES["tokenize"].determined_by(cfg.of_held_out_set(name), environment)
