"""Rules of `training.launcher`, and of what a TrainJob makes of other settings. Pure, as `sft.config.checks` is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from sft.config.k8s_quantity import is_quantity
from sft.config.schema import LauncherConfig, LauncherKind, TrainingConfig
from sft.errors import Problem

OWN_LABELS = "sft/"
"""Prefix of the labels by which a run finds its TrainJob."""

_KEY = "training.launcher"
_OF_EVERY_KIND = {"kind", "num_workers", "node_rank", "rendezvous", "gpus_per_worker", "procs_per_worker"}
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_SECRET_KEY = re.compile(r"^[-._a-zA-Z0-9]+$")
_LABEL_KEY = re.compile(r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
_LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")
_TOLERATION = {
    "key": _LABEL_KEY,
    "operator": re.compile("^(Exists|Equal)$"),
    "value": _LABEL_VALUE,
    "effect": re.compile("^(NoSchedule|PreferNoSchedule|NoExecute)$"),
}


def check_launcher(cfg: TrainingConfig) -> Iterator[Problem]:
    """Every problem of `training.launcher`."""
    launcher = cfg.launcher
    if launcher.kind is LauncherKind.torchrun:
        yield from _torchrun(launcher)
    else:
        yield from _kubeflow(launcher)
        yield from _environment(cfg)
    procs = launcher.num_workers * num_processes(launcher)
    if cfg.effective_batch_size < procs:
        yield Problem(
            key="training.effective_batch_size",
            value=str(cfg.effective_batch_size),
            rule=f"must be at least the {procs} processes, or some rank has nothing to do",
            suggestion=f"try {procs}",
        )


def num_processes(launcher: LauncherConfig) -> int:
    """Ranks on a machine, as far as the settings alone say; a machine's own GPUs may make them more."""
    by_gpus = launcher.gpus_per_worker or 1 if launcher.is_remote else 1
    return launcher.procs_per_worker or by_gpus


def _torchrun(cfg: LauncherConfig) -> Iterator[Problem]:
    if cfg.rendezvous is not None and not cfg.rendezvous.rpartition(":")[2].isdigit():
        suggestion = f"try {cfg.rendezvous}:29500"
        yield Problem(key=f"{_KEY}.rendezvous", value=cfg.rendezvous, rule="must be host:port", suggestion=suggestion)
    if cfg.node_rank is not None and not 0 <= cfg.node_rank < cfg.num_workers:
        rule = f"must be one of 0 to {cfg.num_workers - 1}, with training.launcher.num_workers nodes"
        yield Problem(key=f"{_KEY}.node_rank", value=str(cfg.node_rank), rule=rule)
    untouched = LauncherConfig()
    for name in (f.name for f in dataclasses.fields(cfg) if f.name not in _OF_EVERY_KIND):
        if (value := getattr(cfg, name)) != getattr(untouched, name):
            rule = "is for a TrainJob, and this run trains here"
            suggestion = "choose training/launcher=kubeflow, or leave it out"
            yield Problem(key=f"{_KEY}.{name}", value=str(value), rule=rule, suggestion=suggestion)


def _kubeflow(cfg: LauncherConfig) -> Iterator[Problem]:
    for name in ("node_rank", "rendezvous"):
        if (value := getattr(cfg, name)) is not None:
            yield Problem(key=f"{_KEY}.{name}", value=str(value), rule="is for the TrainJob's runtime to say")
    if cfg.gpus_per_worker is None:
        rule, suggestion = "must be said: a TrainJob asks for its GPUs", "try 1, or 0 to train on CPUs"
        yield Problem(key=f"{_KEY}.gpus_per_worker", value="null", rule=rule, suggestion=suggestion)
    elif 0 < cfg.gpus_per_worker < (cfg.procs_per_worker or 0):
        rule = f"must be at most the pod's {cfg.gpus_per_worker} GPUs: NCCL refuses more"
        suggestion = f"try {cfg.gpus_per_worker}, or null"
        yield Problem(key=f"{_KEY}.procs_per_worker", value=str(cfg.procs_per_worker), rule=rule, suggestion=suggestion)
    for name, example in {"cpu": "4 or 500m", "memory": "64Gi"}.items():
        if not is_quantity(value := getattr(cfg, name)):
            rule = f"must be a Kubernetes quantity, like {example}"
            yield Problem(key=f"{_KEY}.{name}", value=value, rule=rule)
    if not PurePosixPath(cfg.mount_path).is_absolute():
        yield Problem(key=f"{_KEY}.mount_path", value=cfg.mount_path, rule="must be an absolute path")
    if not cfg.image:
        yield Problem(key=f"{_KEY}.image", value="", rule="must name an image with sft in it")
    if cfg.start_timeout_seconds is not None and cfg.start_timeout_seconds < 1:
        yield Problem(key=f"{_KEY}.start_timeout_seconds", value=str(cfg.start_timeout_seconds), rule="must be above 0")
    named: list[tuple[str, str | None]] = [
        ("namespace", cfg.namespace),
        ("runtime", cfg.runtime),
        ("pvc", cfg.pvc),
        ("service_account", cfg.service_account),
        *(("image_pull_secrets", name) for name in cfg.image_pull_secrets),
        *(("secrets", name) for name in cfg.secrets),
    ]
    for where, name_of in named:
        if name_of is not None and (len(name_of) > 253 or not _NAME.match(name_of)):
            rule = "must be a Kubernetes name: lower case letters, digits, - and ."
            yield Problem(key=f"{_KEY}.{where}", value=name_of, rule=rule)
    yield from _labels(cfg)
    for place, toleration in enumerate(cfg.tolerations):
        for part, text in toleration.items():
            if part not in _TOLERATION or not _TOLERATION[part].match(text):
                rule = "must be made of key, operator (Exists, Equal), value and effect (NoSchedule, …)"
                yield Problem(key=f"{_KEY}.tolerations.{place}", value=f"{{{part}: {text}}}", rule=rule)


def _labels(cfg: LauncherConfig) -> Iterator[Problem]:
    for where in ("labels", "annotations", "node_selector"):
        for key, value in getattr(cfg, where).items():
            name = key.rpartition("/")[2]
            if len(name) > 63 or not _LABEL_KEY.match(key):
                yield Problem(
                    key=f"{_KEY}.{where}", value=key, rule="must be NAME or DOMAIN/NAME of at most 63 characters"
                )
            elif where != "annotations" and (len(value) > 63 or not _LABEL_VALUE.match(value)):
                rule = "must be letters, digits, -, _ and ., at most 63 of them"
                yield Problem(key=f"{_KEY}.{where}.{key}", value=value, rule=rule)
            elif where != "node_selector" and key.startswith(OWN_LABELS):
                yield Problem(key=f"{_KEY}.{where}", value=key, rule="is how sft finds its TrainJob again")


def _environment(cfg: TrainingConfig) -> Iterator[Problem]:
    keys = [key for keys in cfg.launcher.secrets.values() for key in keys]
    for name in cfg.env:
        if name.startswith("PET_"):
            yield Problem(key=f"training.env.{name}", rule="is for the TrainJob's runtime to set")
        elif not _VARIABLE.match(name):
            yield Problem(key=f"training.env.{name}", rule="is no name of an environment variable")
    for key in sorted(set(keys)):
        if not (_VARIABLE.match(key) and _SECRET_KEY.match(key)) or key.startswith("PET_"):
            yield Problem(key=f"{_KEY}.secrets", value=key, rule="must be a key that can name an environment variable")
        elif key in cfg.env or keys.count(key) > 1:
            yield Problem(key=f"{_KEY}.secrets", value=key, rule="is said twice: each variable has one source")
