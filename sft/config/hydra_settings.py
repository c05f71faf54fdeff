"""What a recipe or an override may say to Hydra: nothing that names code, loads it, or runs a command.

Hydra can instantiate any class that a configuration names, set environment variables and import packages. A recipe is
data here, so what it composes to is compared with what sft itself needs of Hydra, wherever it came from: the recipe, a
group's file beside it, or an override.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf

from sft.config.schema import RunConfig
from sft.errors import Problem

QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")
"""Overrides that leave logging to sft. ("disabled" would also switch off the loggers of ours.)"""
_OWN_LOGGING = {"version", "root", "disable_existing_loggers"}
_TARGET = "_target_"
_TARGETS = {
    "hydra.launcher": re.compile(
        r"hydra\._internal\.core_plugins\.basic_launcher\.BasicLauncher|"
        r"hydra_plugins\.hydra_joblib_launcher\.joblib_launcher\.JoblibLauncher|"
        r"hydra_plugins\.hydra_submitit_launcher\.submitit_launcher\.(Local|Slurm)Launcher"
    ),
    "hydra.sweeper": re.compile(
        r"hydra\._internal\.core_plugins\.basic_sweeper\.BasicSweeper|"
        r"hydra_plugins\.hydra_optuna_sweeper\.optuna_sweeper\.OptunaSweeper"
    ),
    "hydra.sweeper.sampler": re.compile(r"optuna\.samplers\.[A-Z]\w+"),
}
"""Classes that Hydra may make, by where they are named."""
_RUNS = {
    "hydra.callbacks": "would run code at each run",
    "hydra.job.env_set": "would set variables, which can load code",
    "hydra.sweeper.custom_search_space": "would run a function",
    "hydra.launcher.setup": "would run commands on the cluster",
    "hydra.launcher.additional_parameters": "would hand anything to Slurm, commands among it",
}
"""Settings that must stay empty, and why."""
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "hydra.output_subdir": (None,),
    "hydra.run.dir": (".",),
    "hydra.sweep.dir": ("${run_root}/sweeps/${name}",),
    "hydra.sweep.subdir": (".",),
    "hydra.job.chdir": (False,),
    "hydra.job.name": ("sft",),
    "hydra.job.num": ("???",),
    "hydra.job.id": ("???",),
    "hydra.job.env_copy": ([],),
    "hydra.verbose": (False,),
}
"""Settings that are sft's to say (``conf/config.yaml``): Hydra's own copies would hold all overrides in clear."""
_OF_A_SAMPLER = {
    "hydra.sweeper.storage": "would keep trials that the sweep's record does not have: it goes on by the store alone",
    "hydra.sweeper.search_space": "would vary what the sweep's record does not tell: hydra.sweeper.params is for that",
    "hydra.sweeper.max_failure_rate": "does nothing: a point that fails ends no sweep",
}
"""Settings of Optuna's sweeper that must stay empty or 0, and why. (Its storage may also unpickle what it holds.)"""
SEARCH_PATH = "hydra.searchpath"
_PARAMS = "hydra.sweeper.params"
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


def check_hydra(composed: DictConfig) -> list[Problem]:
    """Return what Hydra's own settings of a composition would load or run, or say in place of sft.

    Args:
        composed: With `QUIET`. Of one that does not start from ``config``, and is refused for that, nothing is fixed.
    """
    content = OmegaConf.to_container(composed.hydra, resolve=False)
    fixed = _FIXED if OmegaConf.get_type(composed) is RunConfig else {}
    return list(_problems(content, fixed))


def _problems(hydra: Any, fixed: Mapping[str, tuple[Any, ...]]) -> Iterator[Problem]:
    for name in sorted(hydra.keys() - {"env", *(field.name for field in fields(HydraConf))}):
        yield Problem(key=f"hydra.{name}", rule="is no setting of Hydra's", suggestion="leave it out")
    for key, why in _RUNS.items():
        if _select(hydra, key):
            yield Problem(key=key, rule=f"{why}, and a recipe is data", suggestion="leave it out")
    for key, why in _OF_A_SAMPLER.items():
        if value := _select(hydra, key):
            yield Problem(key=key, value=str(value), rule=why, suggestion="leave it out")
    for key, values in fixed.items():
        if (value := _select(hydra, key)) not in values:
            rule = "is for sft alone to say"
            yield Problem(key=key, value=str(value), rule=rule, suggestion="leave it out")
    for name in ("launcher", "sweeper"):
        if not isinstance(hydra.get(name), dict):
            yield Problem(key=f"hydra.{name}", rule="must be a mapping", suggestion="leave it out")
    for name in ("job_logging", "hydra_logging"):
        if not set(hydra.get(name) or {}) <= _OWN_LOGGING:
            yield Problem(
                key=f"hydra.{name}", rule="is sft's own, and handlers can load code", suggestion="leave it out"
            )
    for where, key, value in _leaves(hydra, "hydra"):
        if key == _TARGET and not ((allowed := _TARGETS.get(where)) and allowed.fullmatch(str(value))):
            rule = "names code to run, and a recipe is data"
            yield Problem(key=f"{where}.{key}", value=str(value), rule=rule, suggestion="leave it out")
        elif where == "hydra.launcher" and isinstance(value, str) and _CONTROL.search(value):
            yield Problem(key=f"{where}.{key}", value=value, rule="must be one line: it is written into a script")


def _select(hydra: Any, key: str) -> Any:
    for part in key.split(".")[1:]:
        hydra = hydra.get(part) if isinstance(hydra, dict) else None
    return hydra


def _leaves(tree: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    """Yield place, key and value of everything that is neither a mapping nor a list."""
    items: Iterable[tuple[Any, Any]] = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from _leaves(value, f"{where}.{key}")
        else:
            yield where, str(key), value


def check_override(text: str) -> Problem | None:
    """Return a problem if an override says what only a recipe may: where groups are, which there are, what varies."""
    key = text.partition("=")[0].lstrip("+~").split("@")[0].replace("/", ".")
    if key.startswith(SEARCH_PATH):
        rule = "is for a recipe to say, with folders beside it"
        return Problem(key=SEARCH_PATH, rule=rule, suggestion="write it into the recipe")
    if key.startswith(_PARAMS):
        rule = "is for a recipe to say"
        return Problem(key=_PARAMS, rule=rule, suggestion="add -m KEY=A,B, or hydra.mode=RUN for one run")
    if key == "defaults":
        return Problem(key=key, rule="is for a recipe to say", suggestion="choose a group's file with GROUP=NAME")
    return None


def check_search_path(entries: Any, allowed: Iterable[Path]) -> list[Problem]:
    """Return the entries of `hydra.searchpath` that lie outside of some folders.

    Args:
        entries: As the recipe has them.
        allowed: The recipe's folder, and those of sft.
    """
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        return [Problem(key=SEARCH_PATH, rule="must be a list of folders")]
    folders = [folder.resolve() for folder in allowed]
    return [
        Problem(key=SEARCH_PATH, value=entry, rule="must be a folder beside the recipe: file://${recipe_dir:}/NAME")
        for entry in entries
        if not any(folder_of(entry).is_relative_to(folder) for folder in folders)
    ]


def folder_of(entry: str) -> Path:
    """Return the folder that an entry names; of another scheme, which would import a package, none that exists."""
    scheme, separator, path = entry.partition("://")
    if not separator:
        return Path(entry).resolve()
    return Path(path).resolve() if scheme == "file" else Path("/dev/null")
