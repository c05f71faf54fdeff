"""What a run will find: the state of the world, the folder of its record, what the store has of its plan."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from sft import record
from sft.adapters import machine
from sft.artifacts import RegisteredModel
from sft.config.schema import RunConfig
from sft.plan import Circumstances, Plan
from sft.stages import hardware
from sft.stages.dataset import source_version as dataset_version
from sft.stages.evaluate import tasks_version
from sft.stages.model import source_version as model_version
from sft.store import Entry, Store


def circumstances(cfg: RunConfig) -> Circumstances:
    """What the plan can't know by itself: the state of the sources, versions, the machine.

    Raises:
        SftError: A source is not there or can't be reached.
    """
    return Circumstances(
        dataset_version=dataset_version(cfg.dataset) if cfg.dataset.uri else "",
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
            if entry and not is_lost(entry):
                entries[step.name] = entry
    return entries


def is_lost(entry: Entry) -> bool:
    """Whether the registry that an artifact speaks of was a file that is gone."""
    made = entry.artifact
    sqlite = made.address.partition("sqlite:///")[2] if isinstance(made, RegisteredModel) else ""
    return bool(sqlite) and not Path(sqlite).exists()
