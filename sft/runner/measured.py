"""How long a run will take, from what this run root has measured: trainings of the same model, evaluations alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sft.adapters.instructlab.layout import METRICS
from sft.artifacts import LOGS_NAME, TokenizedArtifact
from sft.config.schema import TrainingConfig
from sft.planning.plan import Plan, Step, tokens_to_validate
from sft.planning.step_count import batch_size_of, length_of, num_validation_samples
from sft.redaction import redacted
from sft.store import Entry, Store

_ALIKE = ("device", "num_nodes", "num_processes", "strategy", "precision", "attention")
"""Of what a training runs on and with: what its speed depends on most."""


@dataclass(frozen=True)
class _Speed:
    """What a training measured.

    Attributes:
        tokens_per_second: Of its steps.
        validated_per_second: Loss tokens that were validated in a second; None where none were.
        other_seconds: In which it did neither.
    """

    tokens_per_second: float
    validated_per_second: float | None
    other_seconds: float


def time_line(cfg: TrainingConfig, plan: Plan, have: Mapping[str, Entry], store: Store) -> str | None:
    """Return the line of a plan that says how long its training and evaluations will take; None if none is to be done.

    Args:
        cfg: The training settings.
        plan: Of the run.
        have: What of it is in the store.
        store: With what was measured.
    """
    to_do = [step for step in plan.steps if step.name not in have and step.stage in ("train", "evaluate")]
    if not to_do:
        return None
    known = dict(_measured(cfg, to_do, have, store))
    if not known:
        return "time       not known before something like it was done in this run root"
    told = ", ".join(f"{name} {_shown(seconds)}{f' ({how})' if how else ''}" for name, (seconds, how) in known.items())
    unknown = [step.name for step in to_do if step.name not in known]
    rest = f"; not known of {', '.join(unknown)}" if unknown else ""
    return f"time       about {_shown(sum(seconds for seconds, _ in known.values()))}: {told}{rest}"


def _measured(
    cfg: TrainingConfig, to_do: list[Step], have: Mapping[str, Entry], store: Store
) -> Iterator[tuple[str, tuple[float, str]]]:
    """Yield of each step whose time is known its seconds, and what they rest on."""
    stages = ("train", "select", "evaluate")
    entries = [entry for entry in reversed(store.entries()) if entry.manifest.stage in stages]
    models = {e.manifest.digest: e.manifest.inputs.get("model") for e in entries if e.manifest.stage == "train"}
    chosen = {e.manifest.digest: e.manifest.inputs.get("train", "") for e in entries if e.manifest.stage == "select"}
    models |= {digest: models.get(trained) for digest, trained in chosen.items()}
    for step in to_do:
        settings = redacted(msgspec.to_builtins(step.settings))
        if step.stage == "evaluate":
            for entry in entries:
                if entry.manifest.settings == settings and _scores_alike(entry, models, have):
                    yield step.name, (entry.manifest.seconds, "")
                    break
            continue
        tokens = _tokens(cfg, have)
        for entry in entries if tokens else ():
            if _is_alike(entry, settings, have) and (speed := _speed(entry)):
                seconds = (tokens or 0.0) / speed.tokens_per_second + speed.other_seconds
                how = f"at {speed.tokens_per_second:,.0f} tokens/s, as measured here"
                if (validated := _validated_tokens(cfg, have)) and speed.validated_per_second:
                    seconds += validated / speed.validated_per_second
                elif validated != 0:
                    how += ", without what it validates"
                yield step.name, (seconds, how)
                break


def _tokens(cfg: TrainingConfig, have: Mapping[str, Entry]) -> float | None:
    """Return how many tokens a training computes; None before the data is tokenised."""
    artifact = have["tokenize"].artifact if "tokenize" in have else None
    if not isinstance(artifact, TokenizedArtifact) or not artifact.num_samples:
        return None
    trained = artifact.num_samples - num_validation_samples(cfg, artifact.num_samples)
    num_samples = length_of(cfg, trained).num_steps * batch_size_of(cfg, trained)
    return artifact.num_tokens / artifact.num_samples * num_samples


def _validated_tokens(cfg: TrainingConfig, have: Mapping[str, Entry]) -> float | None:
    """Return how many loss tokens a training validates in all; None before they are labelled."""
    if not cfg.validation_split and not cfg.validation_sets:
        return 0.0
    names = ["tokenize", *map(tokens_to_validate, cfg.validation_sets)]
    labelled = [have[name].artifact for name in names if name in have]
    tokens = [one for one in labelled if isinstance(one, TokenizedArtifact)]
    if len(tokens) < len(names):
        return None
    num_samples = tokens[0].num_samples
    split = num_validation_samples(cfg, num_samples)
    each = tokens[0].num_loss_tokens * split / num_samples + sum(one.num_loss_tokens for one in tokens[1:])
    length = length_of(cfg, num_samples - split)
    every = cfg.validation_frequency
    ends_with_it = bool(cfg.validation_sets) or cfg.select.validated is not None
    times = length.num_epochs if not every else length.num_steps // every
    return each * (times + bool(every and ends_with_it and length.num_steps % every))


def _is_alike(entry: Entry, settings: Mapping[str, Any], have: Mapping[str, Entry]) -> bool:
    """Return whether a training was of the same base model, on as much of the same."""
    if entry.manifest.stage != "train" or "model" not in have:
        return False
    then, now = entry.manifest.settings.get("resources", {}), settings.get("resources", {})
    same_model = entry.manifest.inputs.get("model") == have["model"].manifest.digest
    same_adapters = entry.manifest.settings.get("lora") == settings.get("lora")
    return same_model and same_adapters and all(then.get(name) == now.get(name) for name in _ALIKE)


def _scores_alike(entry: Entry, models: Mapping[str, str | None], have: Mapping[str, Entry]) -> bool:
    """Return whether an evaluation was of the same base model, or one trained of it, and of the same rows.

    Args:
        entry: Of any stage with the settings of an evaluation.
        models: Digest of the base model by that of a training, and of a choice among its models.
        have: What of the run is in the store.
    """
    inputs = entry.manifest.inputs
    base = inputs.get("model") or models.get(inputs.get("train", inputs.get("select", "")))
    if "model" not in have or base != have["model"].manifest.digest:
        return False
    models_of = ("model", "train", "select")
    rows = {name: digest for name, digest in inputs.items() if name in have and name not in models_of}
    return all(have[name].manifest.digest == digest for name, digest in rows.items())


def _speed(entry: Entry) -> _Speed | None:
    """Return what a training measured; None if it doesn't say."""
    file = Path(entry.path, LOGS_NAME, METRICS)
    settings = entry.manifest.settings
    validated = [f"num_validation_tokens.{name}" for name in settings.get("validation_sets", ())]
    validated += ["num_validation_tokens"] if settings.get("validation_split") else []
    try:
        rows = [msgspec.json.decode(line, type=dict[str, Any]) for line in file.read_bytes().splitlines()]
        seconds, num_tokens = (sum(row[name] for row in rows) for name in ("seconds", "num_tokens"))
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, KeyError):
        return None
    if not seconds:
        return None
    validating = sum(row.get("validation_seconds", 0.0) for row in rows)
    num_validated = sum(row.get(name, 0) for row in rows for name in validated if "validation_seconds" in row)
    rate = num_validated / validating if num_validated and validating else None
    return _Speed(num_tokens / seconds, rate, max(0.0, entry.manifest.seconds - seconds - validating))


def _shown(seconds: float) -> str:
    """Return a time with no more digits than it deserves: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
