"""`sft -sc install=bash`: shell completion, Hydra's own once a recipe is named, and the values of a choice by us."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sft.config.compose import find_recipe, recipes, search_path_override
from sft.config.hydra_app import call_through_hydra
from sft.config.setting_names import choices_of
from sft.progress import Progress

_OF_RECIPES = {"run", "plan", "preview"}


def execute(arguments: Sequence[str]) -> int:
    """Install completion, or print what may follow the words in ``COMP_LINE``."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    recipe = recipes()[0]
    if "query" in arguments[-1]:
        if len(words) <= 2:
            from sft.cli.parsers import COMMANDS

            Progress().say(" ".join(COMMANDS))
            return 0
        if words[1] not in _OF_RECIPES or (len(words) > 3 and words[2].startswith("-")):
            return 0
        if len(words) == 3:
            Progress().say(" ".join(recipe.name for recipe in recipes()))
            return 0
        key, is_value, _ = words[-1].partition("=")
        if is_value and (choices := choices_of(key)):
            Progress().say(" ".join(f"{key}={choice}" for choice in choices))
            return 0
        recipe = find_recipe(words[2])
        os.environ["COMP_LINE"] = " ".join([words[0], search_path_override(recipe), *words[3:]])
    call_through_hydra(recipe, arguments[:1], arguments[1:], lambda _: None)
    return 0
