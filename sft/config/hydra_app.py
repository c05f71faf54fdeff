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

QUIET = ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled")
SWEEPS = {"-m", "--multirun"}
"""Flags that ask for a sweep."""


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return Hydra's flags with their values, and the overrides."""
    from hydra._internal.utils import get_args_parser

    parsed, unknown = get_args_parser().parse_known_args(list(arguments))
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
