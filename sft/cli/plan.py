"""`sft plan`: for each step whether it is done and why not, what it takes, and the settings. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from sft import record, runner
from sft.artifacts import TokenizedArtifact
from sft.config import compose
from sft.config.hydra_app import SWEEPS, split_flags
from sft.config.image import unpinned
from sft.config.schema import RunConfig
from sft.errors import ConfigError, Problem
from sft.files import path_from_here
from sft.planning import estimate, machine_needs, model_notes, row_packing
from sft.planning.detectable import detectable_differences
from sft.planning.model_config import read_model_config
from sft.planning.plan import Plan, build_plan
from sft.planning.resources import Resources, resources_of
from sft.planning.stage_spec import STAGES
from sft.planning.trained_parameters import trained_lines
from sft.planning.validations import validated_sets
from sft.progress import Progress
from sft.redaction import redact, redacted
from sft.runner.measured import time_line
from sft.stages import held_out_set, model, sources
from sft.store import Entry, Store
from sft.sweep import spec as sweeps
from sft.sweep.run import preview_sweep


def execute(name_or_path: str, arguments: Sequence[str], *, config: bool = False) -> int:
    """Print the plan of one run; of a sweep, of its first point, and what of the others would run.

    Args:
        name_or_path: The recipe.
        arguments: Overrides, and the flag of a sweep.
        config: Whether all settings are printed too.

    Raises:
        ConfigError: The configuration is wrong.
    """
    flags, overrides = split_flags(arguments)
    if others := [flag for flag in flags if flag not in SWEEPS]:
        rule = "sft plan takes overrides and -m only; flags go to sft run"
        raise ConfigError([Problem(key=" ".join(others), rule=rule)])
    recipe = compose.find_recipe(name_or_path)
    found = sweeps.read(recipe, overrides, asked=bool(flags))
    points = sweeps.check(found) if found else [compose.compose(recipe, overrides)]
    cfg = points[0]
    plan = build_plan(cfg, runner.read_environment(cfg))
    store = Store(Path(cfg.run_root) / "store")
    have = runner.find_done(plan, store, record.load(runner.run_folder(cfg)))
    if cfg.eval.enabled:
        runner.check_known_samples(cfg, {name: entry.artifact for name, entry in have.items()})
    progress = Progress()
    width = max(16, 2 + max(len(step.name) for step in plan.steps))
    for step in plan.steps:
        entry = have.get(step.name)
        status = (
            f"done      {path_from_here(entry.path)}" if entry else f"will run  {_why(step.name, plan, have, store)}"
        )
        progress.say_folded(f"{step.name:<{width}}{status}")
    for line in plan.left_out:
        stage, _, why = line.partition(": ")
        progress.say_folded(f"{stage:<{width}}left out  {why}")
    progress.say("")
    if told := time_line(cfg.training, plan, have, store):
        progress.say_folded(told)
    for line in _facts(cfg, have, plan.notes):
        progress.say_folded(line)
    for line in preview_sweep(found, points) if found else ():
        progress.say_folded(line)
    if config:
        progress.say("")
        progress.say(redact(yaml.safe_dump(msgspec.to_builtins(cfg), sort_keys=False, allow_unicode=True)))
    else:
        progress.say("settings   --config prints them all")
    return 0


def _why(name: str, plan: Plan, have: Mapping[str, Entry], store: Store) -> str:
    step = next(step for step in plan.steps if step.name == name)
    if absent := [needed for needed in step.needs if needed not in have]:
        names = f"{', '.join(absent[:-1])} and {absent[-1]}" if absent[1:] else absent[0]
        return f"takes what {names} will make"
    digests = {needed: have[needed].manifest.digest for needed in step.needs}
    prefix = f"{group}." if (group := STAGES[step.stage].group) else ""
    settings = redacted(msgspec.to_builtins(step.settings))  # as the store keeps them
    changes: list[list[str]] = [
        _changes(old.settings, settings, prefix)
        + [f"another {needed}" for needed in step.needs if old.inputs.get(needed) != digests[needed]]
        for old in (entry.manifest for entry in store.entries())
        if old.stage == step.stage and set(old.inputs) == set(digests)
    ]
    if not changes:
        return "never done in this run_root"
    fewest = min(range(len(changes)), key=lambda place: len(changes[place]))
    return f"differs from what is done: {', '.join(changes[fewest])}"


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> list[str]:
    changes = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        name = key if "." in key else f"{prefix}{key}"  # of another group than its stage's
        if isinstance(before, dict) and isinstance(after, dict):
            changes += _changes(before, after, f"{name}.")
        elif before != after:
            plain = all(len(str(value)) <= 40 for value in (before, after))
            changes.append(f"{name} {_shown(before)} → {_shown(after)}" if plain else f"{name} changed")
    return changes


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _facts(cfg: RunConfig, have: Mapping[str, Entry], notes: Sequence[str]) -> list[str]:
    artifacts = {name: entry.artifact for name, entry in have.items()}
    facts = [*estimate.steps(cfg, artifacts), *validated_sets(cfg.training, artifacts), *estimate.place(cfg)]
    wanted = []
    if "dataset" not in have and (what := sources.download(cfg.dataset)):
        wanted.append(what)
    sets = [name for name in cfg.held_out_sets if f"dataset:{name}" not in have]
    wanted += filter(None, (held_out_set.download(cfg, name) for name in sets))
    if "model" not in have and (what := model.download(cfg.model)):
        wanted.append(what)
    facts.append(f"downloads  {', '.join(wanted) or 'nothing'}")
    facts += trained_lines(cfg, artifacts)
    facts += estimate.memory_per_rank(cfg, artifacts)
    facts += detectable_differences(cfg.eval, artifacts)
    if "train" not in have:
        facts += estimate.disk(cfg)
    facts.append(f"run        {runner.run_folder(cfg)}")
    resources = resources_of(cfg)
    for name, why in resources.explained().items():
        lead = "resources" if name == "device" else ""
        facts.append(f"{lead:<11}{name:<24}{_shown(why['value']):<14}{why['reason']}")
    facts += [f"refused    {each.rule}; {each.fix}" for each in _missing(cfg, have, resources)]
    config = read_model_config(cfg.model)
    packing = row_packing.packing_notes(config, resources.attention)
    tokenized = artifacts.get("tokenize")
    samples = tokenized if isinstance(tokenized, TokenizedArtifact) else None
    of_model = model_notes.notes(cfg.training, config, samples)
    here = [*machine_needs.notes(cfg, resources)]
    if cfg.training.launcher.is_remote and (note := unpinned(cfg.training.launcher.image)):
        here.append(note)
    few = estimate.few_steps(cfg, artifacts, resources.num_sharing_batch)
    return [*facts, *(f"note       {note}" for note in (*notes, *few, *resources.notes, *packing, *of_model, *here))]


def _missing(cfg: RunConfig, have: Mapping[str, Entry], resources: Resources) -> list[machine_needs.Missing]:
    """Return what this machine lacks for a training that is not done yet."""
    if "train" in have:
        return []
    kept = Store(Path(cfg.run_root) / "store").size_of_tries("train")
    return list(machine_needs.missing_for(cfg, resources, kept))
