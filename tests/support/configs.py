"""Composed configurations, for tests that look at what is made of one.

Hydra takes a tenth of a second for each, and most tests compare with the same few. Each is composed once per session,
and every caller gets a copy that it may change. Tests of composing itself call `sft.config.compose`.
"""

from __future__ import annotations

import copy
from functools import cache

from sft.config.compose import compose, find_recipe
from sft.config.schema import RunConfig


def composed(*overrides: str, recipe: str = "quickstart") -> RunConfig:
    """Return a copy of the configuration of a shipped recipe with these overrides."""
    return copy.deepcopy(_composed(recipe, overrides))


@cache
def _composed(recipe: str, overrides: tuple[str, ...]) -> RunConfig:
    return compose(find_recipe(recipe), overrides)
