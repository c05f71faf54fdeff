"""The way through Hydra: its flags, and the call that composes a recipe and calls back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from sft.config import compose
from sft.config.compose import Recipe
from sft.errors import ConfigError, Problem

SWEEPS = {"-m", "--multirun"}
"""Flags that ask for a sweep."""
_REFUSED = {
    "config_path": "the recipe's path says where it is",
    "config_name": "the recipe's path says which it is",
    "config_dir": "folders of groups lie beside the recipe: hydra.searchpath in it",
    "experimental_rerun": "reads a pickle, which can run code; `sft run --from RUN` repeats a run",
}
"""Flags of Hydra that would compose something else than what was checked."""


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return Hydra's flags with their values, and the overrides.

    Raises:
        ConfigError: A flag would compose something else than the recipe.
    """
    from hydra._internal.utils import get_args_parser

    parsed, unknown = get_args_parser().parse_known_args(list(arguments))
    if problems := [
        Problem(key=f"--{name.replace('_', '-')}", value=str(value), rule=f"is not for sft: {why}")
        for name, why in _REFUSED.items()
        if (value := getattr(parsed, name)) is not None
    ]:
        raise ConfigError(problems)
    overrides = [*parsed.overrides, *unknown]
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return flags, overrides


def call_through_hydra(
    recipe: Recipe, flags: Sequence[str], overrides: Sequence[str], job: Callable[[DictConfig], object]
) -> None:
    """Hand flags and overrides to Hydra, which composes the recipe and calls `job`."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors and exits by itself
    compose.prepare(recipe)
    GlobalHydra.instance().clear()
    sys.argv[1:] = [*flags, *compose.defaults_of(recipe), *overrides]
    hydra.main(version_base="1.3", config_path=str(recipe.path.parent), config_name=recipe.path.stem)(job)()
