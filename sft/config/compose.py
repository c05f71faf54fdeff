"""Recipe and overrides in, `RunConfig` out. Owns where ``conf/`` and ``recipes/`` are and how Hydra finds them.

Does not own what is wrong with a configuration: that is `sft.config.diagnose` and `sft.config.checks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft.config.checks import check
from sft.config.diagnose import (
    diagnose,
    dotted_name,
    free_mapping,
    is_override,
    missing,
    nearest,
    override_problems,
    recipe_problems,
    unknown,
)
from sft.config.kfp_parameters import quoted, translated
from sft.config.schema import RunConfig
from sft.errors import ConfigError, Problem

SCHEMA_NAME = "run_schema"


@dataclass(frozen=True)
class Recipe:
    """A complete primary config that a person edits.

    Attributes:
        path: Absolute path of the YAML.
    """

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def purpose(self) -> str:
        """The first comment line of the file."""
        with self.path.open(encoding="utf-8") as file:
            first = file.readline().strip()
        return first.removeprefix("#").strip() if first.startswith("#") else ""


def shipped(folder: str) -> Path:
    """Return ``conf`` or ``recipes``: the checkout's folder if there is one, else the copy inside the package.

    An editable install keeps no copy in the package, a wheel has no checkout beside it.
    """
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / folder
    return checkout if (package.parent / "pyproject.toml").is_file() and checkout.is_dir() else package / folder


def recipes() -> list[Recipe]:
    """Return the shipped recipes, by name."""
    return [Recipe(path) for path in sorted(shipped("recipes").glob("*.yaml"))]


def find_recipe(name_or_path: str) -> Recipe:
    """Return a shipped recipe by name, or any YAML by path.

    Raises:
        ConfigError: There is no such recipe, or its name is taken by ``conf/config.yaml``.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise ConfigError([Problem(key=name_or_path, rule="no such recipe file")])
        if path.stem == "config":
            raise ConfigError(
                [Problem(key=name_or_path, rule="a recipe can't be called config", suggestion="rename it")]
            )
        return Recipe(path.resolve())
    names = {recipe.name: recipe for recipe in recipes()}
    if name_or_path not in names:
        known = ", ".join(names)
        raise ConfigError(
            [
                Problem(
                    key=name_or_path,
                    rule=f"no such recipe; there are {known}",
                    suggestion=nearest(name_or_path, names),
                )
            ]
        )
    return names[name_or_path]


def search_path_override(recipe: Recipe) -> str:
    """Return the override that lets Hydra find the groups in ``conf/`` behind the recipe's own folder."""
    own = OmegaConf.select(OmegaConf.create(_load_yaml(recipe.path)), "hydra.searchpath") or []
    entries = [*own, f"file://{shipped('conf')}"]
    return "hydra.searchpath=[" + ",".join("'" + entry.replace("'", "\\'") + "'" for entry in entries) + "]"


def prepare(recipe: Recipe) -> None:
    """Make Hydra know `RunConfig`, which types every composition, and the resolver ``${recipe_dir:}``."""
    _store_schema()
    OmegaConf.register_new_resolver("recipe_dir", lambda: str(recipe.path.parent), replace=True)


@cache
def _store_schema() -> None:
    """Make Hydra know `RunConfig`, once: it takes longer than to read all YAMLs."""
    ConfigStore.instance().store(name=SCHEMA_NAME, node=RunConfig)


def as_hydra(overrides: Sequence[str]) -> list[str]:
    """Return overrides as Hydra wants them.

    That is a group by its path, a new key of a free mapping with ``++``, quotes where needed,
    a setting in place of the original pipeline's name for it.

    So `training.fsdp=full_shard` chooses a group, `training.env.NCCL_DEBUG=INFO` adds a key, and a uri with
    a query needs no second pair of quotes.
    """
    return [_as_hydra(text) for text in overrides]


def _as_hydra(text: str) -> str:
    text = translated(text)
    key, equals, value = text.partition("=")
    if not equals or not key.replace(".", "").replace("_", "").isalnum():
        return text
    if name := dotted_name(key):
        mapping = key.removesuffix(f".{name}")
        return f"++{mapping}={{{name}: {quoted(value)}}}"
    if not is_override(text):
        value = quoted(value)
    group = key.replace(".", "/")
    if group != key and (shipped("conf") / group).is_dir():
        return f"{group}={value}"
    return f"++{key}={value}" if free_mapping(key) else f"{key}={value}"


def compose(recipe: Recipe, overrides: Sequence[str]) -> RunConfig:
    """Return the typed, checked configuration of one run; overrides are as a person types them.

    Raises:
        ConfigError: With every problem there is: keys, types, values, choices, missing values, cross-field rules.
    """
    overrides = as_hydra(overrides)
    try:
        composed = _composed(recipe, overrides)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        problems = diagnose(recipe.path, shipped("conf"), overrides, error)
        raise ConfigError([*problems, *_beyond(recipe, overrides)]) from error
    return to_run_config(composed, recipe)


def to_run_config(composed: DictConfig, recipe: Recipe) -> RunConfig:
    """Return a composition that Hydra accepted as dataclasses.

    Raises:
        ConfigError: A key is unknown, a value is missing or does not resolve, or a rule across fields is broken.
    """
    problems = [*unknown(composed), *missing(composed)]
    if problems:
        raise ConfigError(problems)
    try:
        cfg = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or recipe.name
        raise ConfigError([Problem(key=str(key), rule=str(error).splitlines()[0])]) from error
    if not isinstance(cfg, RunConfig):
        rule = "does not start from `config`"
        raise ConfigError([Problem(key=str(recipe.path), rule=rule, suggestion="write `defaults: [config, _self_]`")])
    if problems := check(cfg):
        raise ConfigError(problems)
    return cfg


def _composed(recipe: Recipe, overrides: Sequence[str]) -> DictConfig:
    prepare(recipe)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(recipe.path.parent), version_base="1.3", job_name="sft"):
        return hydra_compose(recipe.path.stem, [*defaults_of(recipe), *overrides])


def _beyond(recipe: Recipe, overrides: Sequence[str]) -> tuple[Problem, ...]:
    """Return what else is wrong once the overrides that can't be composed are left out."""
    if recipe_problems(recipe.path):
        return ()
    try:
        to_run_config(_composed(recipe, [o for o in overrides if not override_problems(o, shipped("conf"))]), recipe)
    except ConfigError as error:
        return error.problems
    except (HydraException, OmegaConfBaseException):  # the error that diagnose passed on already
        return ()
    return ()


def defaults_of(recipe: Recipe) -> list[str]:
    """Return what every composition of a recipe starts with: where groups are, and the run's name."""
    own_name = _load_yaml(recipe.path).get("name")
    return [search_path_override(recipe), *([] if own_name else [f"++name={recipe.name}"])]


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            [Problem(key=str(path), rule=f"is not valid YAML: {' '.join(str(error).split())}")]
        ) from error
    if not isinstance(content, dict):
        raise ConfigError([Problem(key=str(path), rule="a recipe is a mapping of keys to values")])
    return content
