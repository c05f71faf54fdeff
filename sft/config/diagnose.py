"""Why a composition failed: every problem at once, each with its key, value, rule and the nearest valid name.

Hydra reports only the first problem. So every leaf of the recipe and every override is tried alone against the
schema, without composing anything. What none of them explains is passed on in Hydra's own words.
"""

from __future__ import annotations

import functools
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft.config import as_written
from sft.config.kfp_parameters import PARAMETERS, SIBLINGS
from sft.config.nearest import nearest, nearest_key
from sft.config.schema import RunConfig
from sft.config.setting_names import group_by_name, hint_of, inside_named_group, is_setting, schema_keys
from sft.errors import Problem

_EXTRAS = {
    "hydra/launcher": {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"},
    "hydra/sweeper": {"optuna": "optuna"},
}
"""Plugins of Hydra's that have an extra of ours."""
_NOT_SETTINGS = {"defaults", "hydra"}
_UNSET = re.compile(r"Environment variable '([^']+)' not found")
"""What OmegaConf says of `${oc.env:NAME}` where there is no such variable."""
_LONGEST_BITS = 10_000
_KIND = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_HOW_TO_SET = {
    "dataset.uri": "say where the data is: dataset.uri=data.jsonl, dataset.uri=hf://org/name or dataset.uri=s3://bucket/key"
}


def diagnose(recipe: Path, conf: Path, overrides: Sequence[str], error: Exception) -> list[Problem]:
    """Return every problem of a composition that failed with `error`; at least one."""
    problems = recipe_problems(recipe)
    if problem := missing_extra(error):
        problems.append(problem)
    for text in overrides:
        problems += override_problems(text, conf)
    return problems or [_of_hydra(recipe, error)]


def _of_hydra(recipe: Path, error: Exception) -> Problem:
    """Return what no setting alone explains, in Hydra's words where it has some."""
    if isinstance(error, RecursionError):
        fix = "look for a file among its own defaults"
        return Problem(key=recipe.name, rule="is nested too deeply, or its files include each other", suggestion=fix)
    if isinstance(error, KeyError):
        rule = "is for sft alone to say"
        return Problem(key="hydra.job.env_copy", value=str(error), rule=rule, suggestion="leave it out")
    if isinstance(error, AssertionError | AttributeError | TypeError):
        rule = f"{recipe.name}: Hydra can't read this list ({type(error).__name__})"
        return Problem(key="defaults", rule=rule, suggestion="[config, {override /model: hub}, _self_], for example")
    return Problem(key=recipe.name, rule=" ".join(str(error).split()))


def recipe_problems(recipe: Path) -> list[Problem]:
    """Return what is wrong with each value of a recipe's file on its own."""
    content = as_written.load(recipe.read_text(encoding="utf-8"))
    return [p for key, value in _leaves(content) if (p := _leaf_problem(key, value))]


def override_problems(text: str, conf: Path) -> list[Problem]:
    """Return what is wrong with one override on its own, outside of a sweep."""
    if (override := _parsed(text)) is None:
        return [Problem(key=text, rule="is not an override", suggestion="write key=value")]
    key = override.key_or_group
    if override.is_sweep_override():
        value = text.partition("=")[2]
        return [
            Problem(key=key, value=value, rule="several values are a sweep", suggestion="add -m, or [1,2] for a list")
        ]
    if key.split(".")[0].split("/")[0] in _NOT_SETTINGS or override.is_delete():
        return []
    if (conf / key).is_dir():
        choices = [path.stem for path in sorted((conf / key).glob("*.yaml"))]
        problem = _choice_problem(key, override.value(), choices)
        return [problem] if problem else []
    if "/" in key:
        groups = [path.relative_to(conf).as_posix() for path in sorted(conf.rglob("*")) if path.is_dir()]
        return [Problem(key=key, rule="no such config group", suggestion=nearest(key, groups))]
    return [problem for name, value in _leaves({key: override.value()}) if (problem := _leaf_problem(name, value))]


def swept_in_group(text: str) -> Problem | None:
    """Return what is wrong with several values of a setting in a named group, which Hydra knows only as a whole."""
    override = _parsed(text)
    if override is None or not override.is_sweep_override() or not inside_named_group(override.key_or_group):
        return None
    rule = "several values are a sweep, and a setting of a named group can't be swept"
    fix = "start a run for each value, then sft compare RUN RUN"
    return Problem(key=override.key_or_group, value=text.partition("=")[2], rule=rule, suggestion=fix)


def missing_extra(error: Exception) -> Problem | None:
    """Return what to install if a launcher or a sweeper of Hydra's is missing; None for any other error."""
    file = error.missing_cfg_file if isinstance(error, MissingConfigException) else None
    group, _, choice = (file or "").rpartition("/")
    if group not in _EXTRAS:
        return None
    extras = _EXTRAS[group]
    if choice in extras:
        fix = f"pip install 'sft-runner[{extras[choice]}]'"
        return Problem(key=group, value=choice, rule="is not installed", suggestion=fix)
    rule = f"must be one of {', '.join(['basic', *extras])}"
    return Problem(key=group, value=choice, rule=rule, suggestion=nearest(choice, extras))


def missing(composed: DictConfig) -> list[Problem]:
    """Return a problem for every value that only a person can supply and has not."""
    return [required(key) for key in sorted(OmegaConf.missing_keys(composed))]


def required(key: str) -> Problem:
    """Return the problem of a value that only a person can supply."""
    suggestion = _HOW_TO_SET.get(key, f"set it: {key}=…")
    return Problem(key=key, rule="is required and not set", suggestion=suggestion)


def unresolved(composed: DictConfig) -> list[Problem]:
    """Return a problem for every value that holds an interpolation which leads nowhere."""
    content = OmegaConf.to_container(composed, resolve=False)
    problems = []
    for key, value in _leaves(typing.cast("dict[str, Any]", content)):
        try:
            resolved = OmegaConf.select(composed, key)
            if OmegaConf.is_config(resolved):
                OmegaConf.to_container(resolved, resolve=True)
        except OmegaConfBaseException as error:
            problems.append(_interpolation_problem(key, value, error))
    return problems


def _interpolation_problem(key: str, value: Any, error: Exception) -> Problem:
    if unset := _UNSET.search(str(error)):
        name = unset[1]
        fix = f"export it, or write ${{oc.env:{name},DEFAULT}}"
        return Problem(key=key, value=_shown(value), rule=f"the environment variable {name} is not set", suggestion=fix)
    return Problem(key=key, value=_shown(value), rule=str(error).splitlines()[0])


def is_override(text: str) -> bool:
    """Return whether Hydra's grammar takes a text as the override of some key."""
    return _parsed(text) is not None


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> Override | None:
    try:
        override: Override = OverridesParser.create().parse_override(text)
    except (HydraException, ValueError, RecursionError):  # a number of more than 4,300 digits, deep nesting
        return None
    return override if override.key_or_group else None


def unknown(composed: DictConfig) -> list[Problem]:
    """Yield a problem for every key that ``+key=value`` or a group's file brought in past the schema."""
    content = OmegaConf.to_container(composed, resolve=False)
    leaves = _leaves(typing.cast("dict[str, Any]", content))
    return [p for key, value in leaves if not is_setting(key) and (p := _leaf_problem(key, value))]


def _leaves(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if not prefix and key in _NOT_SETTINGS:
            continue
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and value and (is_dataclass(hint_of(dotted)) or group_by_name(hint_of(dotted))):
            yield from _leaves(value, f"{dotted}.")
        else:
            yield dotted, value


@functools.cache
def _schema() -> DictConfig:
    """Return what types every value; those that were tried before do no harm."""
    return typing.cast(DictConfig, OmegaConf.structured(RunConfig))


def _leaf_problem(key: str, value: Any) -> Problem | None:
    if isinstance(value, str) and "${" in value:
        return None  # an interpolation: known only once composed
    if not is_setting(key):
        if key.rpartition(".")[2] == "_target_":
            rule = "names code to run, and a recipe is data"
            return Problem(key=key, value=_shown(value), rule=rule, suggestion="leave it out")
        known = PARAMETERS | SIBLINGS if key.startswith("phase_") else schema_keys()
        return Problem(key=key, value=_shown(value), rule="no such setting", suggestion=nearest_key(key, known))
    where, content = key, value
    if inside := inside_named_group(key):
        where, names = inside
        for part in reversed(names):
            content = {part: content}
    try:
        OmegaConf.update(_schema(), where, content, merge=True, force_add=True)
    except RecursionError:
        return Problem(key=key, rule="is nested too deeply")
    except (OmegaConfBaseException, OverflowError) as error:  # Python's, of a whole number that no float holds
        return Problem(key=key, value=_shown(value), rule=_rule(key, error), suggestion=_enum_suggestion(key, value))
    return None


def _choice_problem(key: str, value: Any, choices: list[str]) -> Problem | None:
    if value in choices:
        return None
    rule = f"must be one of {', '.join(choices)}"
    return Problem(key=key, value=_shown(value), rule=rule, suggestion=nearest(str(value), choices))


def _rule(key: str, error: Exception) -> str:
    hint = hint_of(key)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"must be one of {', '.join(hint.__members__)}"
    if is_dataclass(hint):
        return "is a group of settings: choose one with " + key.replace(".", "/") + "=NAME, or set a key in it"
    return f"must be {_KIND[hint]}" if hint in _KIND else str(error).splitlines()[0]


def _enum_suggestion(key: str, value: Any) -> str | None:
    hint = hint_of(key)
    return nearest(str(value), hint.__members__) if isinstance(hint, type) and issubclass(hint, Enum) else None


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > _LONGEST_BITS:  # Python writes no such number out
        return "(an endless number)"
    return "null" if value is None else str(value)
