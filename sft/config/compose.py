"""Recipe and overrides in, `RunConfig` out. Owns where ``conf/`` and ``recipes/`` are and how Hydra finds them.

Does not own what is wrong with a configuration: that is `sft.config.diagnose` and `sft.config.checks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from sft.config.as_written import override_value
from sft.config.checks import check
from sft.config.continued_adapter import take_settings
from sft.config.diagnose import (
    diagnose,
    is_override,
    missing,
    override_problems,
    recipe_problems,
    required,
    swept_in_group,
    unknown,
    unresolved,
)
from sft.config.hydra_settings import QUIET, SEARCH_PATH, check_hydra, check_override, check_search_path, folder_of
from sft.config.kfp_parameters import hydra_text, quoted, translated
from sft.config.nearest import nearest
from sft.config.recipe_files import FileConfigSource, read_recipe
from sft.config.schema import RunConfig
from sft.config.setting_names import dotted_name, free_mapping, inside_named_group
from sft.errors import ConfigError, Problem
from sft.logs import learn

SCHEMA_NAME = "run_schema"
COMPOSITION_ERRORS = (
    *(HydraException, OmegaConfBaseException, yaml.YAMLError),
    *(ValueError, OverflowError, KeyError, RecursionError),
    *(AssertionError, AttributeError, TypeError),
)
"""What Hydra and OmegaConf raise where a recipe or an override is wrong: a number of 5,000 digits is Python's error,
and of a list of defaults Hydra only asserts what it takes."""


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
            files = [file.as_posix() for suffix in ("yaml", "yml") for file in path.parent.glob(f"*.{suffix}")]
            fix = nearest(path.as_posix(), files) or "give a YAML's path, or a name from `sft recipes`"
            raise ConfigError([Problem(key=name_or_path, rule="no such recipe file", suggestion=fix)])
        if path.suffix != ".yaml":  # Hydra would look for NAME.yaml, and may find another file
            rule, fix = "a recipe's name ends in .yaml", f"rename it to {path.stem}.yaml"
            raise ConfigError([Problem(key=name_or_path, rule=rule, suggestion=fix)])
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
    """Return the override that lets Hydra find the groups in ``conf/`` behind the recipe's own folder.

    Raises:
        ConfigError: The recipe names a folder elsewhere: what lies there would be composed unseen, or imported; or a
            file of its own would be composed in the place of one of sft's.
    """
    own: Any = OmegaConf.select(OmegaConf.create(read_recipe(recipe.path)), SEARCH_PATH)
    own = OmegaConf.to_object(own) if OmegaConf.is_config(own) else own or []
    if problems := check_search_path(own, [recipe.path.parent, shipped("conf"), shipped("recipes")]):
        raise ConfigError(problems)
    if problems := list(_replaced(folder_of(entry) for entry in (str(recipe.path.parent), *own))):
        raise ConfigError(problems)
    entries = [*own, f"file://{shipped('conf')}"]
    return "hydra.searchpath=[" + ",".join("'" + entry.replace("'", "\\'") + "'" for entry in entries) + "]"


def _replaced(folders: Iterable[Path]) -> Iterator[Problem]:
    """Yield the files that Hydra would find before sft's own ones of the same name."""
    conf = shipped("conf")
    names = [file.relative_to(conf) for file in sorted(conf.rglob("*.yaml"))]
    for file, own in ((folder / name, conf / name) for folder in folders for name in names):
        if file.is_file() and file.read_bytes() != own.read_bytes():
            rule = f"would be read in the place of sft's own {own.relative_to(conf)}"
            yield Problem(key=str(file), rule=rule, suggestion="rename it, or keep the recipe in another folder")


def prepare(recipe: Recipe) -> None:
    """Make Hydra know `RunConfig`, which types every composition, and the resolver ``${recipe_dir:}``.

    Each file of a group is read as strictly as the recipe.
    """
    _store_schema()
    Plugins.instance()  # it registers Hydra's own
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
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

    Raises:
        ConfigError: One says where Hydra looks for groups, or sweeps over what can't be swept.
    """
    if problems := [problem for text in overrides if (problem := check_override(text) or swept_in_group(text))]:
        raise ConfigError(problems)
    return [_as_hydra(text) for text in overrides]


def _as_hydra(text: str) -> str:
    text = translated(text)
    key, equals, value = text.partition("=")
    if equals:
        value = override_value(key.lstrip("+"), value)
        text = f"{key}={value}"
    if (bare := key.lstrip("+")) != key and (dotted_name(bare) or inside_named_group(bare)):
        return _as_hydra(text.lstrip("+"))  # to add is what is meant anyway, and Hydra would not know the group's type
    if not equals or not key.replace(".", "").replace("_", "").isalnum():
        return text
    if name := dotted_name(key):
        mapping = key.removesuffix(f".{name}")
        return f"++{mapping}={{{name}: {quoted(value)}}}"
    if not is_override(text):
        value = quoted(value)
    if inside := inside_named_group(key):
        mapping, names = inside
        return f"++{mapping}=" + "".join(f"{{{part}: " for part in names) + value + "}" * len(names)
    group = key.replace(".", "/")
    if group != key and (shipped("conf") / group).is_dir():
        return f"{group}={value}"
    return f"++{key}={value}" if free_mapping(key) else f"{key}={value}"


def compose(recipe: Recipe, overrides: Sequence[str], *, needs_data: bool = True) -> RunConfig:
    """Return the typed, checked configuration of one run.

    Args:
        recipe: The recipe.
        overrides: As a person types them.
        needs_data: Whether there must be a `dataset.uri`; else it may be empty.

    Raises:
        ConfigError: With every problem there is: keys, types, values, choices, missing values, cross-field rules.
    """
    overrides = as_hydra(overrides)
    try:
        composed = _composed(recipe, overrides)
    except COMPOSITION_ERRORS as error:
        problems = diagnose(recipe.path, shipped("conf"), overrides, error)
        raise ConfigError([*problems, *_beyond(recipe, overrides)]) from error
    return to_run_config(composed, recipe, needs_data=needs_data)


def to_run_config(composed: DictConfig, recipe: Recipe, *, needs_data: bool = True) -> RunConfig:
    """Return a composition that Hydra accepted as dataclasses.

    Args:
        composed: The composition.
        recipe: What it is of.
        needs_data: As in `compose`.

    Raises:
        ConfigError: A key is unknown, a value is missing, does not resolve or is out of bounds, or a rule across fields
            is broken.
    """
    if problems := [*unknown(composed), *unresolved(composed)]:
        raise ConfigError(problems)
    if OmegaConf.select(composed, "dataset.sources") and OmegaConf.is_missing(composed.dataset, "uri"):
        OmegaConf.update(composed, "dataset.uri", "")
    if problems := missing(composed):
        raise ConfigError(problems)
    try:
        cfg = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or recipe.name
        raise ConfigError([Problem(key=str(key), rule=str(error).splitlines()[0])]) from error
    if not isinstance(cfg, RunConfig):
        rule = "does not start from `config`"
        raise ConfigError([Problem(key=str(recipe.path), rule=rule, suggestion="write `defaults: [config, _self_]`")])
    learn(OmegaConf.to_container(composed, resolve=True))
    no_data = [required("dataset.uri")] if needs_data and not (cfg.dataset.uri or cfg.dataset.sources) else []
    if problems := [*no_data, *check(cfg)]:
        raise ConfigError(problems)
    if problems := [*take_settings(cfg.model, cfg.training.lora)] or check(cfg):
        raise ConfigError(problems)
    cfg.training.learning_rate = cfg.training.rate()  # so that plan, record and card say the number
    return cfg


def _composed(recipe: Recipe, overrides: Sequence[str]) -> DictConfig:
    prepare(recipe)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(recipe.path.parent), version_base="1.3", job_name="sft"):
        composed = hydra_compose(recipe.path.stem, [*defaults_of(recipe), *overrides], return_hydra_config=True)
    if problems := check_hydra(composed):
        raise ConfigError(problems)
    with flag_override(composed, ["readonly", "struct"], False):
        del composed["hydra"]
    return composed


def _beyond(recipe: Recipe, overrides: Sequence[str]) -> tuple[Problem, ...]:
    """Return what else is wrong once the overrides that can't be composed are left out."""
    if recipe_problems(recipe.path):
        return ()
    try:
        to_run_config(_composed(recipe, [o for o in overrides if not override_problems(o, shipped("conf"))]), recipe)
    except ConfigError as error:
        return error.problems
    except COMPOSITION_ERRORS:  # what diagnose passed on already
        return ()
    return ()


def defaults_of(recipe: Recipe) -> list[str]:
    """Return what every composition of a recipe starts with: where groups are, no logging by Hydra, the run's name."""
    own_name = read_recipe(recipe.path).get("name")
    return [search_path_override(recipe), *QUIET, *([] if own_name else [_named(recipe)])]


def _named(recipe: Recipe) -> str:
    return "++name=" + hydra_text(recipe.name.replace("${", r"\${"))
