"""Recipe and overrides in, `RunConfig` out. Owns where ``conf/`` and ``recipes/`` are and how Hydra finds them.

Does not own what is wrong with a configuration: that is `sft.config.diagnose` and `sft.config.checks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from sft.config.diagnose import diagnose, missing, nearest
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
    """``conf`` or ``recipes``: the checkout's folder when there is one, else the copy inside the package.

    An editable install keeps no copy in the package, a wheel has no checkout beside it.
    """
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / folder
    return checkout if (package.parent / "pyproject.toml").is_file() and checkout.is_dir() else package / folder


def recipes() -> list[Recipe]:
    """The shipped recipes, by name."""
    return [Recipe(path) for path in sorted(shipped("recipes").glob("*.yaml"))]


def find_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or any YAML by path.

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
    """The override that lets Hydra find the groups in ``conf/`` behind the recipe's own folder."""
    own = OmegaConf.select(OmegaConf.create(_load_yaml(recipe.path)), "hydra.searchpath") or []
    entries = [*own, f"file://{shipped('conf')}"]
    return "hydra.searchpath=[" + ",".join("'" + entry.replace("'", "\\'") + "'" for entry in entries) + "]"


def register_schema() -> None:
    """Makes `RunConfig` known to Hydra as the node that types every composition."""
    ConfigStore.instance().store(name=SCHEMA_NAME, node=RunConfig)


def compose(recipe: Recipe, overrides: Sequence[str]) -> RunConfig:
    """The typed, checked configuration of one run.

    Raises:
        ConfigError: With every problem there is: keys, types, values, choices, missing values, cross-field rules.
    """
    return to_run_config(_composed(recipe, overrides), recipe)


def to_run_config(composed: DictConfig, recipe: Recipe) -> RunConfig:
    """A composition that Hydra accepted, as dataclasses.

    Raises:
        ConfigError: Something is missing, does not resolve, or breaks a rule across fields.
    """
    if absent := missing(composed):
        raise ConfigError(absent)
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
    register_schema()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(recipe.path.parent), version_base="1.3", job_name="sft"):
            return hydra_compose(recipe.path.stem, [*defaults_of(recipe), *overrides])
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(diagnose(recipe.path, shipped("conf"), overrides, error)) from error


def defaults_of(recipe: Recipe) -> list[str]:
    """What every composition of a recipe starts with: where groups are, and the run's name."""
    own_name = _load_yaml(recipe.path).get("name")
    return [search_path_override(recipe), *([] if own_name else [f"name={recipe.name}"])]


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
