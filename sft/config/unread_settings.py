"""Settings that are set and would do nothing, where that may be meant: a sweep's point, a choice on the command line.

Where it can only be a mistake it is refused (`sft.config.checks` and its like).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

from sft.config.optimization_checks import unread_optimization
from sft.config.schedule_checks import unread_schedule
from sft.config.schema import (
    DatasetConfig,
    DatasetFormat,
    EvalConfig,
    HoldoutConfig,
    LauncherConfig,
    LauncherKind,
    LoraConfig,
    Mixing,
    ModelConfig,
    ModelSource,
    RunConfig,
    Tracker,
    TrackingConfig,
    TrainingConfig,
)
from sft.config.selection_checks import unread_selection
from sft.redaction import redact

_READ_WITHOUT_OPTIONS = re.compile(r"(file|pvc|hf|https?|synthetic)://.*|(?!.*://).*", re.IGNORECASE | re.DOTALL)


def unread_settings(cfg: RunConfig) -> Iterator[str]:
    """Yield a line for each setting that differs from its default and that this run does not read, with the reason."""
    yield from _dataset(cfg)
    yield from _model(cfg.model)
    yield from _training(cfg.training)
    if not cfg.eval.holdout.enabled and not cfg.eval.holdouts:
        names = {field.name for field in dataclasses.fields(HoldoutConfig)} - {"enabled", "generate"}
        holdout = _changed("eval.holdout", cfg.eval.holdout, HoldoutConfig(), names)
        yield from (f"{told}: not read with eval.holdout.enabled=false" for told in holdout)
    if not cfg.eval.baseline:
        confidence = _changed("eval", cfg.eval, EvalConfig(), {"confidence"})
        yield from (f"{told}: not read with eval.baseline=false: nothing is compared" for told in confidence)
    if not cfg.eval.tasks:
        names = {"num_fewshot", "limit", "gen_kwargs", "system_instruction", "fewshot_as_multiturn"}
        asked = _changed("eval", cfg.eval, EvalConfig(), names)
        yield from (f"{told}: not read, since eval.tasks is empty" for told in asked)
    if cfg.registry.pvc is not None and cfg.registry.upload is not None:
        yield f"registry.pvc={cfg.registry.pvc}: not read, since registry.upload says where the model is"


def _dataset(run: RunConfig) -> Iterator[str]:
    cfg = run.dataset
    if cfg.eval_uri is not None:
        share = _changed("dataset", cfg, DatasetConfig(), {"train_split"})
        yield from (f"{told}: not read, since dataset.eval_uri brings the held-out samples" for told in share)
    formats = [source.format for source in cfg.sources.values()] or [cfg.format]
    if all(wanted is DatasetFormat.text for wanted in formats):
        names = {"train_on", "train_on_reasoning", "on_too_long"}
        of_turns = [*_changed("dataset", cfg, DatasetConfig(), {"system_prompt"})]
        of_turns += _changed("training", run.training, TrainingConfig(), names)
        why = "not read with raw text, which has no turns and is divided where it is long"
        yield from (f"{told}: {why}" for told in of_turns)
    if cfg.sources and cfg.mixing is Mixing.concatenate:
        told_of_mix = _changed("dataset", cfg, DatasetConfig(), {"stop"})
        yield from (f"{told}: not read with dataset.mixing=concatenate" for told in told_of_mix)
    if cfg.mixing is not Mixing.temperature:
        exponent = _changed("dataset", cfg, DatasetConfig(), {"mixing_temperature"})
        yield from (f"{told}: read only with dataset.mixing=temperature" for told in exponent)
    uris = [uri for uri in (cfg.uri, cfg.eval_uri) if uri]
    uris += [source.uri for source in cfg.sources.values()]
    uris += [held_out.uri for held_out in run.eval.holdouts.values()]
    has_options = any(value is not None for value in cfg.storage_options.values())
    if has_options and all(map(_READ_WITHOUT_OPTIONS.fullmatch, uris)):
        yield f"dataset.storage_options: not read for {' and '.join(map(redact, uris))}"


def _model(cfg: ModelConfig) -> Iterator[str]:
    names = {"revision", "trust_remote_code"} if cfg.source is ModelSource.scratch else {"scratch"}
    settings = _changed("model", cfg, ModelConfig(), names)
    yield from (f"{told}: not read with model.source={cfg.source.value}" for told in settings)


def _training(cfg: TrainingConfig) -> Iterator[str]:
    if cfg.lora.rank == 0:
        settings = _changed(
            "training.lora", cfg.lora, LoraConfig(), {field.name for field in dataclasses.fields(LoraConfig)} - {"rank"}
        )
        yield from (f"{told}: not read with training.lora.rank=0, which trains every weight" for told in settings)
    if cfg.max_steps is not None:
        epochs = _changed("training", cfg, TrainingConfig(), {"num_epochs"})
        yield from (f"{told}: not read with training.max_steps={cfg.max_steps}" for told in epochs)
    yield from unread_schedule(cfg)
    yield from unread_optimization(cfg)
    yield from unread_selection(cfg)
    if not cfg.async_states and cfg.fsdp.version == 1:
        yield "training.async_states=false: not read with training.fsdp.version=1, whose ranks wait for each full state"
    elif not cfg.async_states and not cfg.saves_states_on_the_way():
        yield "training.async_states=false: not read, since no full state is saved on the way"
    if not {Tracker.mlflow, Tracker.wandb} & {*cfg.tracking.trackers}:
        project = _changed("training.tracking", cfg.tracking, TrackingConfig(), {"project"})
        yield from (f"{told}: read only with mlflow or wandb among training.tracking.trackers" for told in project)
    if cfg.launcher.kind is LauncherKind.torchrun and cfg.launcher.num_workers == 1:
        nodes = _changed("training.launcher", cfg.launcher, LauncherConfig(), {"rendezvous", "node_rank"})
        yield from (f"{told}: not read with training.launcher.num_workers=1" for told in nodes)


def _changed(prefix: str, group: Any, untouched: Any, names: set[str]) -> Iterator[str]:
    """Yield ``key=value`` for those of a group's settings that are not at their default, down to the last group."""
    for name in (field.name for field in dataclasses.fields(group) if field.name in names):
        value, default = getattr(group, name), getattr(untouched, name)
        if dataclasses.is_dataclass(value):
            yield from _changed(f"{prefix}.{name}", value, default, {field.name for field in dataclasses.fields(value)})
        elif value != default:
            shown = value.name if isinstance(value, Enum) else str(value).lower() if isinstance(value, bool) else value
            yield f"{prefix}.{name}={shown}"
