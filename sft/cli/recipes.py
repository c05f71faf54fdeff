"""`sft recipes`: the shipped recipes, each with its one-line purpose."""

from __future__ import annotations

from sft.config.compose import recipes
from sft.progress import Progress


def execute() -> int:
    """Prints them."""
    found = recipes()
    width = max(len(recipe.name) for recipe in found)
    progress = Progress()
    for recipe in found:
        progress.say(f"{recipe.name:<{width}}  {recipe.purpose}")
    return 0
