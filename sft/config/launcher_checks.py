"""Rules of `training.launcher`, and of what a TrainJob makes of other settings. Pure, as `sft.config.checks` is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from sft.config.environment_names import is_loader, may_load_code
from sft.config.k8s_quantity import amount, is_quantity
from sft.config.schema import LauncherConfig, LauncherKind, TrainingConfig
from sft.errors import Problem
from sft.known_secrets import is_secret_name

_FACTORS = "num_workers, procs_per_worker, gpus_per_worker"
OWN_LABELS = "sft/"
"""Prefix of the labels by which a run finds its TrainJob."""

_KEY = "training.launcher"
_AFFINITIES = {"nodeAffinity", "podAffinity", "podAntiAffinity"}
_OF_EVERY_KIND = {"kind", "num_workers", "node_rank", "rendezvous", "gpus_per_worker", "procs_per_worker"}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RENDEZVOUS = re.compile(r"[^\s:]{1,253}:(\d{1,5})|\[[^\s\]]{1,100}\]:(\d{1,5})", re.ASCII)


def check_launcher(cfg: TrainingConfig) -> Iterator[Problem]:
    """Every problem of `training.launcher`."""
    launcher = cfg.launcher
    if launcher.kind is LauncherKind.torchrun:
        yield from _torchrun(launcher)
    else:
        yield from _kubeflow(launcher)
        yield from _environment(cfg)
    yield from _loaders(cfg)
    procs = launcher.num_workers * launcher.num_processes
    if (launcher.is_remote or launcher.procs_per_worker) and (problem := undivided_ranks(cfg.context_parallel, procs)):
        yield problem
    at_once = max(1, procs // cfg.context_parallel)
    if cfg.effective_batch_size is not None and cfg.effective_batch_size < at_once:
        of = f" by training.context_parallel={cfg.context_parallel}" if cfg.context_parallel > 1 else ""
        yield Problem(
            key="training.effective_batch_size",
            value=str(cfg.effective_batch_size),
            rule=f"must be at least the {procs} processes ({_FACTORS}){of}, or some rank has nothing to do",
            suggestion=f"try {at_once}",
        )


def undivided_ranks(context_parallel: int, num_ranks: int) -> Problem | None:
    """Return what is wrong if `training.context_parallel` does not divide the ranks of a training."""
    if num_ranks % context_parallel == 0:
        return None
    fitting = [size for size in range(2, num_ranks + 1) if num_ranks % size == 0]
    return Problem(
        key="training.context_parallel",
        value=str(context_parallel),
        rule=f"must divide the {num_ranks} {'rank' if num_ranks == 1 else 'ranks'} of this training ({_FACTORS})",
        suggestion=f"try {', '.join(map(str, fitting[:4]))}" if fitting else "leave it out, or train on more ranks",
    )


def _torchrun(cfg: LauncherConfig) -> Iterator[Problem]:
    if cfg.rendezvous is not None and not _is_rendezvous(cfg.rendezvous):
        suggestion = f"try {cfg.rendezvous.partition(':')[0] or 'host'}:29500"
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


def _is_rendezvous(text: str) -> bool:
    match = _RENDEZVOUS.fullmatch(text)
    return match is not None and 0 < int(match[1] or match[2]) < 2**16


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
    yield from _amounts(cfg)
    if unknown := sorted(set(cfg.affinity) - _AFFINITIES):
        rule, suggestion = "is no affinity of a pod", f"it has {', '.join(sorted(_AFFINITIES))}"
        yield Problem(key=f"{_KEY}.affinity", value=unknown[0], rule=rule, suggestion=suggestion)
    if not cfg.verify_tls and cfg.ca is not None:
        rule = "is not read with training.launcher.verify_tls=false"
        yield Problem(key=f"{_KEY}.ca", value=cfg.ca, rule=rule, suggestion="leave one of them out")
    for where in ("labels", "annotations"):
        for key in getattr(cfg, where):
            if key.startswith(OWN_LABELS):
                yield Problem(key=f"{_KEY}.{where}", value=key, rule="is how sft finds its TrainJob again")


def _amounts(cfg: LauncherConfig) -> Iterator[Problem]:
    """Yield what is wrong with what a pod asks for and gets."""
    own = {"cpu": "cpu", "memory": "memory", "nvidia.com/gpu": "gpus_per_worker"}
    for name in sorted(own.keys() & cfg.resources.keys()):
        yield Problem(key=f"{_KEY}.resources", value=name, rule=f"is said by {_KEY}.{own[name]}")
    asked = {**cfg.resources, "cpu": cfg.pod_cpu, "memory": cfg.pod_memory}
    for name, limit in cfg.limits.items():
        if name not in ("cpu", "memory", "ephemeral-storage"):
            rule = "gets what it asks for: a limit of its own have only cpu, memory and ephemeral-storage"
            yield Problem(key=f"{_KEY}.limits", value=name, rule=rule, suggestion=f"use {_KEY}.resources")
        elif is_quantity(limit) and is_quantity(asked.get(name, "")) and amount(limit) < amount(asked[name]):
            rule = f"must be at least the {asked[name]} that a pod asks for"
            yield Problem(key=f"{_KEY}.limits.{name}", value=limit, rule=rule)


def _loaders(cfg: TrainingConfig) -> Iterator[Problem]:
    """Yield the variables that could make a rank load code."""
    for name in cfg.env:
        if name == "TRUST_REMOTE_CODE":
            yield Problem(key=f"training.env.{name}", rule="is not for a variable to say: see model.trust_remote_code")
        elif name == "CUDA_VISIBLE_DEVICES":  # plan, ranks and record must mean the same GPUs
            rule, suggestion = "comes too late: GPUs are counted before", "set it where sft is started"
            yield Problem(key=f"training.env.{name}", rule=rule, suggestion=suggestion)
        elif name.startswith("PET_"):
            rule = "is for torchrun to read: the settings of training.launcher say it"
            yield Problem(key=f"training.env.{name}", rule=rule)
        elif not _VARIABLE.fullmatch(name):
            yield Problem(key=f"training.env.{name}", rule="is no name of an environment variable")
        elif cfg.allow_any_env or is_secret_name(name):
            continue  # allowed, or refused for another reason
        elif may_load_code(name):
            rule = "is not a variable that is known to load no code"
            suggestion = "leave it out, or say training.allow_any_env=true, which is recorded"
            yield Problem(key=f"training.env.{name}", rule=rule, suggestion=suggestion)
    for name in sorted({key for keys in cfg.launcher.secrets.values() for key in keys}):
        if not cfg.allow_any_env and is_loader(name):
            rule, suggestion = "can make a rank load code", "name the key of a token"
            yield Problem(key=f"{_KEY}.secrets", value=name, rule=rule, suggestion=suggestion)


def _environment(cfg: TrainingConfig) -> Iterator[Problem]:
    keys = [key for keys in cfg.launcher.secrets.values() for key in keys]
    for key in sorted(set(keys)):
        if key.startswith("PET_"):
            yield Problem(key=f"{_KEY}.secrets", value=key, rule="is for the TrainJob's runtime to set")
        elif key in cfg.env or keys.count(key) > 1:
            yield Problem(key=f"{_KEY}.secrets", value=key, rule="is said twice: each variable has one source")
