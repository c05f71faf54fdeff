"""What a registry is asked outside its stage: before the training, and whether it still holds what is done."""

from __future__ import annotations

from pathlib import Path

from sft.artifacts import RegisteredModel
from sft.config.schema import RunConfig
from sft.errors import StageError
from sft.progress import Progress
from sft.scratch import scratch
from sft.stages import upload
from sft.stages.registries import Registry, embedded_mlflow, registry_of
from sft.store import Entry


def check_registry(cfg: RunConfig, progress: Progress) -> None:
    """Ask the registry of a recipe, before anything is trained, whether the model could be registered there.

    Raises:
        StageError: It can't be reached, refuses the token, or the name can't be used.
    """
    if (registry := _registry(cfg)) is None:
        return
    try:
        with scratch("registry") as logs:
            note = registry.check(logs)
    except StageError as error:
        fix = "mend it, or registry=none: `sft register` registers the model of a run that has ended"
        raise StageError(f"asked before the training: {error.message}", fix=fix) from error
    if note:
        progress.say(f"- {note}")


def check_upload(cfg: RunConfig, progress: Progress) -> None:
    """Ask the place that a recipe uploads to, before anything is downloaded, whether it would take the model.

    Raises:
        StageError: It can't be reached, or refuses the login or its rights.
    """
    if cfg.registry.upload is None:
        return
    try:
        with scratch("upload") as logs:
            note = upload.check(cfg.registry, logs)
    except StageError as error:
        raise StageError(f"asked before the training: {error.message}", fix=error.fix) from error
    if note:
        progress.say(f"- {note}")


def is_lost(cfg: RunConfig, entry: Entry | None, progress: Progress) -> bool:
    """Return whether a registry no longer holds the model that an entry of the store says is registered there.

    A registry that can't be asked is believed to; that is said.
    """
    model, registry = entry.artifact if entry else None, _registry(cfg)
    if registry is None or not isinstance(model, RegisteredModel):
        return False
    try:
        with scratch("registry") as logs:
            is_there = registry.has(model, logs)
    except StageError as error:
        progress.say(f"- not known whether {model.name} version {model.version} is registered still: {error.message}")
        return False
    if not is_there:
        progress.say(f"- {model.name} version {model.version} is no longer in {model.address}: it is registered again")
    return not is_there


def _registry(cfg: RunConfig) -> Registry | None:
    return registry_of(cfg.registry, database=embedded_mlflow(Path(cfg.run_root)))
