"""Owns what a run consists of: the literal sequence of steps, what each takes, and what its result depends on.

Pure: no file, no network, no heavy import. What only the world knows (the state of a source, versions of
packages, the machine) comes in as `Environment`. What is done already is the runner's to find out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sft.config.schema import ModelSource, RegistryKind, RunConfig
from sft.errors import ConfigError, Problem

_VERSIONS_OF = {
    "dataset": (),
    "model": ("transformers", "tokenizers"),
    "tokenize": ("instructlab-training", "transformers", "tokenizers"),
    "train": ("torch", "instructlab-training", "accelerate", "transformers"),
    "evaluate": ("torch", "lm-eval", "transformers"),
    "gates": (),
    "package": (),
    "upload": (),
    "register": (),
}
"""Packages that change what a stage makes."""

_CODE = {
    "dataset": 2,
    "model": 2,
    "tokenize": 3,
    "train": 4,
    "evaluate": 3,
    "gates": 1,
    "package": 1,
    "upload": 1,
    "register": 1,
}
"""Raised when our own code of a stage would make something else of the same inputs."""


_NOT_IN_THE_WEIGHTS = {
    "env",
    "full_state_at_epoch",
    "checkpoint_every_steps",
    "keep_full_states",
    "stall_timeout_seconds",
    "max_restarts",
    "num_loader_workers",
    "tracking",
    "launcher",
}
"""Training settings that say how a result is got, not what it is. The number of ranks counts as a circumstance."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a result depends on besides the configuration.

    Attributes:
        dataset_version: State of the source: file times, ETag, commit.
        model_version: State of the base model: file times, commit.
        tasks_version: Digest of the recipe's own lm-eval tasks.
        num_processes: Ranks that train.
        as_run: Training settings as they are where they are trained, by dotted key, where they may differ from the
            recipe's.
        device: ``cpu`` or the GPU's name, of this machine.
        training_device: The same of what trains, which may be a cluster.
        versions: Package -> version.
    """

    dataset_version: str
    model_version: str
    tasks_version: str
    num_processes: int
    device: str
    training_device: str
    versions: Mapping[str, str]
    as_run: Mapping[str, Any] = field(default_factory=dict)


NO_ENVIRONMENT = Environment(
    dataset_version="", model_version="", tasks_version="", num_processes=0, device="", training_device="", versions={}
)
"""For steps that depend on nothing of it: what comes after the package."""


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
        """Where its result lies in the store, given the digest of each artifact it needs."""
        content = {"stage": self.stage, "settings": self.settings, "inputs": [digests[name] for name in self.needs]}
        return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:20]


@dataclass(frozen=True)
class Plan:
    """A run's steps in order, and what the recipe leaves out, each in a line."""

    steps: tuple[Step, ...]
    left_out: tuple[str, ...] = ()

    def reaching(self, goal: str) -> Plan:
        """Only the step of that name, or every step of that stage, and what they need.

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
        return Plan(tuple(step for step in self.steps if step.name in wanted))


def build_plan(cfg: RunConfig, world: Environment) -> Plan:
    """The steps of a run.

    Args:
        cfg: A checked configuration.
        world: What the results depend on besides.
    """
    settings = {name: _settings(name, cfg, world) for name in _VERSIONS_OF}

    def step(name: str, *needs: str) -> Step:
        stage = name.partition(":")[0]
        return Step(name=name, stage=stage, needs=needs, settings=settings[stage])

    model_needs = ("dataset",) if cfg.model.source is ModelSource.scratch else ()
    steps = [
        step("dataset"),
        step("model", *model_needs),
        step("tokenize", "dataset", "model"),
        step("train", "model", "tokenize"),
    ]
    left_out = []
    scores: tuple[str, ...] = ()
    if not cfg.eval.enabled:
        left_out.append("evaluate: eval.enabled=false")
    elif cfg.eval.tasks or cfg.eval.holdout.enabled:
        data = ("dataset",) if cfg.eval.holdout.enabled else ()
        if cfg.eval.baseline:
            steps.insert(-1, step("evaluate:base", "model", *data))
            scores = ("evaluate:base",)
        steps.append(step("evaluate:tuned", "train", *data))
        scores = (*scores, "evaluate:tuned")
        if cfg.eval.gates:
            steps.append(step("gates", *scores))
            scores = (*scores, "gates")
    else:
        left_out.append("evaluate: no eval.tasks, and eval.holdout.enabled=false")
    steps.append(step("package", "dataset", "model", "tokenize", "train", *scores))
    uploaded: tuple[str, ...] = ()
    if cfg.registry.upload is not None:
        steps.append(step("upload", "package"))
        uploaded = ("upload",)
    if cfg.registry.kind is RegistryKind.none:
        left_out.append("register: registry=none")
    elif cfg.registry.kind is RegistryKind.kubeflow and not cfg.registry.address:
        left_out.append("register: registry.address is empty")
    else:
        steps.append(step("register", "dataset", "model", "train", *scores, "package", *uploaded))
    return Plan(tuple(steps), tuple(left_out))


def _settings(stage: str, cfg: RunConfig, world: Environment) -> dict[str, Any]:
    """What determines a stage's result besides its inputs: no more, or work is done twice; no less, or it is stale."""
    own: dict[str, Any]
    if stage == "dataset":
        own = {**_plain(cfg.dataset), "source_version": world.dataset_version}
    elif stage == "model":
        own = _plain(cfg.model)
        own |= {"scratch": None} if cfg.model.source is ModelSource.pretrained else {"name_or_path": None}
        own["source_version"] = world.model_version
    elif stage == "tokenize":
        own = {"max_seq_len": cfg.training.max_seq_len, "on_invalid": cfg.dataset.on_invalid.value}
    elif stage == "train":
        own = {key: value for key, value in _plain(cfg.training).items() if key not in _NOT_IN_THE_WEIGHTS}
        for key, value in world.as_run.items():
            _put(own, key, value)
        own |= {"num_processes": world.num_processes, "device": world.training_device}
    elif stage == "evaluate":
        own = {**_plain(cfg.eval), "include_path": world.tasks_version, "device": world.device}
        del own["baseline"], own["enabled"], own["gates"], own["verbosity"]
    elif stage == "gates":
        own = {"gates": cfg.eval.gates}
    elif stage == "package":  # it tells of the whole run
        own = {key: value for key, value in _plain(cfg).items() if key not in {"run_root", "sweep"}}
    elif stage == "upload":
        own = {"upload": cfg.registry.upload}
    else:
        own = _plain(cfg.registry)
    versions = {name: world.versions.get(name, "") for name in _VERSIONS_OF[stage]}
    return {**own, "code": _CODE[stage], "versions": versions}


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        tree = tree[group]
    tree[name] = value


def _plain(group: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(group)
    return plain
