"""`sft models`: what a registry holds, with the scores of each version."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from sft.adapters.registry import Fact, ListedModel
from sft.config import compose
from sft.config.compose import Recipe
from sft.config.schema import RegistryConfig
from sft.errors import ConfigError, Problem
from sft.files import json_text
from sft.progress import Progress
from sft.redaction import redacted
from sft.scores import format_score
from sft.scratch import scratch
from sft.stages.registries import embedded_mlflow, registry_of

_TUNED, _STDERR = "tuned.", "_stderr"
_READ = {"registry", "run_root", *(f"registry.{name}" for name in ("kind", "address", "port", "ca"))}
"""Settings that say which registry is asked."""


def execute(name: str | None, overrides: Sequence[str], *, json: bool) -> int:
    """Print every version, newest first.

    Args:
        name: Only of this model; None = all.
        overrides: Which registry: settings of the group `registry`, and `run_root`; without any, the embedded MLflow.
        json: Print JSON, with all facts.

    Raises:
        ConfigError: A setting is wrong, or names no registry.
        StageError: The registry refused or can't be reached.
    """
    _refuse_unread(overrides)
    asked = ["dataset.uri=", *([] if any(o.startswith("registry=") for o in overrides) else ["registry=mlflow"])]
    cfg = compose.compose(Recipe(compose.shipped("conf") / "config.yaml"), [*asked, *overrides], needs_data=False)
    found = sorted(_ask(name, cfg.registry, Path(cfg.run_root)), key=lambda model: -model.registered_at)
    progress = Progress()
    if json:
        progress.say(json_text(redacted([asdict(model) for model in found])))
        return 0
    if not found:
        progress.say(f"no model {name} is registered there" if name else "no model is registered there")
    for model in found:
        for line in _lines(model):
            progress.say(line)
    return 0


def _refuse_unread(overrides: Sequence[str]) -> None:
    """Raise ConfigError if a setting says nothing of which registry is asked: it would choose nothing."""
    keys = [text.partition("=")[0].lstrip("+~") for text in overrides]
    problems = [
        Problem(
            key=f"sft models {key}",
            rule="is not read: it doesn't say which registry is asked",
            suggestion="--name MODEL lists one model's versions" if key == "registry.model_name" else "leave it out",
        )
        for key in keys
        if key not in _READ
    ]
    if problems:
        raise ConfigError(problems)


def _ask(name: str | None, cfg: RegistryConfig, run_root: Path) -> list[ListedModel]:
    registry = registry_of(cfg, database=embedded_mlflow(run_root))
    if registry is None:
        suggestion = "registry=mlflow, or registry=kubeflow registry.address=https://…"
        raise ConfigError([Problem(key="registry", rule="names no registry to ask", suggestion=suggestion)])
    with scratch("models") as logs:
        return registry.models(name, logs)


def _lines(model: ListedModel) -> Iterator[str]:
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(model.registered_at / 1000))
    aliases = "".join(f" @{alias}" for alias in model.aliases)
    run = f"  run {model.facts['run_id']}" if "run_id" in model.facts else ""
    state = "  archived" if model.is_archived else ""
    yield f"{model.name} {model.version}{aliases}  {made}{run}{state}"
    if model.uri:
        yield f"  {model.uri}"
    for key in model.facts:
        if key.startswith(_TUNED) and not key.endswith(_STDERR):
            score = key.removeprefix(_TUNED)
            before, error = model.facts.get(f"base.{score}"), model.facts.get(key + _STDERR)
            was = f"{_score(before)} → " if before is not None else ""
            verdict = f"  {model.facts[told]}" if (told := f"verdict.{score}") in model.facts else ""
            yield f"  {score:<30} {was}{_score(model.facts[key], error)}{verdict}"


def _score(value: Fact, error: Fact | None = None) -> str:
    """Return a score as it is shown; what somebody else has put there instead of a number, as it is."""
    number = _number(value)
    return str(value) if number is None else format_score(number, _number(error))


def _number(value: Fact | None) -> float | None:
    """Return a fact as a number, for MLflow keeps numbers as text; None if it is none."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return None
