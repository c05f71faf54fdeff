"""Every shipped YAML composes, and what each recipe resolves to is reviewed line by line in golden files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sft.cli.recipes import copy
from sft.config.compose import compose, find_recipe, recipes, shipped

GOLDEN = Path(__file__).parent / "golden"
NEEDS = ["dataset.uri=data.jsonl"]
OPEN = {"kfp", "kfp-pod", "original"}
"""Recipes that leave to the command line where the data is."""
RECIPES = [recipe.path for recipe in recipes()]
GROUP_FILES = sorted(path for path in shipped("conf").rglob("*.yaml") if path.name != "config.yaml")


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}: {value!r}"


def test_there_are_recipes_and_groups() -> None:
    assert len(RECIPES) >= 2
    assert len(GROUP_FILES) >= 15


def resolved(path: Path) -> str:
    needs = NEEDS if path.stem in OPEN else []
    settings = msgspec.to_builtins(compose(find_recipe(str(path)), needs))
    return "\n".join(sorted(flat(settings))).replace(str(path.parent), "RECIPES") + "\n"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_resolves_to_its_golden_settings(path: Path) -> None:
    text = resolved(path)
    golden = GOLDEN / f"{path.stem}.txt"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), "UPDATE_GOLDEN=1 accepts the change"


@pytest.mark.long
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_copied_recipe_resolves_to_the_same_settings(path: Path, tmp_path: Path) -> None:
    copy(path.stem, str(tmp_path / "mine"))
    assert resolved(tmp_path / "mine" / path.name) == resolved(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_has_a_purpose_and_its_own_command_in_its_header(path: Path) -> None:
    header = path.read_text(encoding="utf-8").partition("defaults:")[0]
    assert find_recipe(str(path)).purpose.endswith(".")
    assert re.search(rf"\n#   sft run {path.stem}( .+)?\n", header)
    assert re.findall(r"^# (Hardware|Time|Expect): ", header, re.MULTILINE) == ["Hardware", "Time", "Expect"]


@pytest.mark.parametrize("path", GROUP_FILES, ids=lambda path: path.relative_to(shipped("conf")).as_posix())
def test_every_choice_of_every_group_composes(path: Path, tmp_path: Path) -> None:
    group = path.parent.relative_to(shipped("conf")).as_posix()
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("defaults: [config, _self_]\n")
    overrides = [f"{group}={path.stem}", *NEEDS]
    assert compose(find_recipe(str(recipe)), overrides).name == "mine"


def test_no_config_names_code_to_run() -> None:
    for path in [*RECIPES, *GROUP_FILES, shipped("conf") / "config.yaml"]:
        assert "_target_" not in path.read_text(encoding="utf-8"), path
