"""Why a composition failed: every problem at once, each with its key, value, rule and the nearest valid name.

Hydra reports only the first problem. So every leaf of the recipe and every override is tried alone against the
schema, without composing anything. What none of them explains is passed on in Hydra's own words.
"""

from __future__ import annotations

import difflib
import functools
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft.config.kfp_parameters import PARAMETERS, SIBLINGS
from sft.config.schema import RunConfig
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
_CLOSE = 0.7
"""How alike two words are, of 1, if one may be meant by the other (difflib)."""
_MOST_NAMED = 4
_OTHER_NAMES = {
    "lr": "training.learning_rate",
    "epochs": "training.num_epochs",
    "num_train_epochs": "training.num_epochs",
    "training.batch_size": "training.effective_batch_size",
    "per_device_train_batch_size": "training.effective_batch_size",
    "gradient_accumulation_steps": "training.effective_batch_size",
    "max_length": "training.max_seq_len",
    "max_seq_length": "training.max_seq_len",
    "cutoff_len": "training.max_seq_len",
    "model.name": "model.name_or_path",
    "model.path": "model.name_or_path",
    "model_name_or_path": "model.name_or_path",
    "registry.name": "registry.model_name",
    "dataset.path": "dataset.uri",
    "r": "training.lora.rank",
    "lora_r": "training.lora.rank",
    "lora_alpha": "training.lora.alpha",
    "lora_dropout": "training.lora.dropout",
}
"""What other tools and habits call a setting."""
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
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
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


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return ``did you mean …?`` for the closest known word; None if none is close, or which one is in doubt."""
    folded = {name.casefold(): name for name in known}
    begun = [name for low, name in folded.items() if low.startswith(word.casefold())]
    if len(begun) == 1:
        return f"did you mean {begun[0]}?"
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=_CLOSE)
    return f"did you mean {folded[close[0]]}?" if close else None


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """Return ``did you mean …?`` for a setting of another name; None if none is close.

    In a group that there is, another group's setting of that name is another thing, and is not proposed.
    """
    names = list(known)
    group, _, last = key.rpartition(".")
    for name in (key, last):
        if (meant := _OTHER_NAMES.get(name)) in names:
            return f"did you mean {meant}?"
    if group in names:
        names = [name for name in names if name.startswith(f"{group}.")]
    same = [name for name in names if name.rpartition(".")[2] == last]
    if group and same:
        same = difflib.get_close_matches(key, same, n=1, cutoff=0.0)
    if same:
        return f"did you mean {' or '.join(same[:_MOST_NAMED])}?"
    lasts = {name.rpartition(".")[2]: name for name in names} if group in {n.rpartition(".")[0] for n in names} else {}
    if close := difflib.get_close_matches(last.casefold(), lasts, n=1, cutoff=0.6):
        return f"did you mean {lasts[close[0]]}?"
    return None if lasts else nearest(key, names)


def schema_keys(cls: type = RunConfig, prefix: str = "") -> Iterator[str]:
    """Return the dotted names of all settings, groups included."""
    for name, hint in typing.get_type_hints(cls).items():
        yield prefix + name
        if is_dataclass(hint):
            yield from schema_keys(typing.cast(type, hint), f"{prefix}{name}.")


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


def choices_of(key: str) -> list[str]:
    """Return the values of a setting that has a few; none of any other setting."""
    hint = _hint(key)
    if hint is bool:
        return ["true", "false"]
    return list(hint.__members__) if isinstance(hint, type) and issubclass(hint, Enum) else []


def is_whole_number(key: str) -> bool:
    """Return whether a setting takes nothing but whole numbers."""
    return _hint(key) is int


def is_setting(key: str) -> bool:
    """Return whether the schema has a dotted key, or holds it in a free mapping (`training.env.NCCL_DEBUG`)."""
    mapping = free_mapping(key)
    return _hint(key) is not None or (mapping is not None and _group_by_name(_hint(mapping)) is None)


def free_mapping(key: str) -> str | None:
    """Return the setting that is a mapping with keys of its own and is or holds `key`; None if there is none."""
    parts = key.split(".")
    heads = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next((head for head in heads if typing.get_origin(_hint(head)) is dict), None)


def dotted_name(key: str) -> str | None:
    """Return `holdout.loss` of `eval.gates.holdout.loss`: a name with dots in a mapping to texts; None without."""
    mapping = free_mapping(key)
    name = key.removeprefix(f"{mapping}.")
    return name if mapping and name != key and "." in name and typing.get_args(_hint(mapping))[1] is str else None


def inside_named_group(key: str) -> tuple[str, list[str]] | None:
    """Return `eval.holdouts` and [`support`, `uri`] of `eval.holdouts.support.uri`; None of any other setting.

    OmegaConf makes no new group of a mapping from a dotted key, but it does from a mapping.
    """
    mapping = free_mapping(key)
    if mapping is None or mapping == key or _group_by_name(_hint(mapping)) is None:
        return None
    return mapping, key.removeprefix(f"{mapping}.").split(".")


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
        if isinstance(value, dict) and value and (is_dataclass(_hint(dotted)) or _group_by_name(_hint(dotted))):
            yield from _leaves(value, f"{dotted}.")
        else:
            yield dotted, value


@cache
def _hint(key: str) -> Any:
    """Return the declared type of a dotted key without its None; None where the schema has no such key."""
    hint: Any = RunConfig
    for part in key.split("."):
        if group := _group_by_name(hint):
            hint = group
        elif is_dataclass(hint):
            hint = _hints(typing.cast(type, hint)).get(part)
        else:
            return None
    options = [o for o in typing.get_args(hint) if o is not type(None)]
    return options[0] if isinstance(hint, types.UnionType) and len(options) == 1 else hint


def _group_by_name(hint: Any) -> Any:
    """Return the group of settings that a mapping holds by names of its own; None of any other type."""
    values = typing.get_args(hint)[1:] if typing.get_origin(hint) is dict else ()
    return values[0] if values and is_dataclass(values[0]) else None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


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
    hint = _hint(key)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"must be one of {', '.join(hint.__members__)}"
    if is_dataclass(hint):
        return "is a group of settings: choose one with " + key.replace(".", "/") + "=NAME, or set a key in it"
    return f"must be {_KIND[hint]}" if hint in _KIND else str(error).splitlines()[0]


def _enum_suggestion(key: str, value: Any) -> str | None:
    hint = _hint(key)
    return nearest(str(value), hint.__members__) if isinstance(hint, type) and issubclass(hint, Enum) else None


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > _LONGEST_BITS:  # Python writes no such number out
        return "(an endless number)"
    return "null" if value is None else str(value)
