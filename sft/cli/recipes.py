"""`sft recipes` and `sft schema`: list the shipped recipes, copy one with the files it needs, say what one may hold."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sft.config.compose import Recipe, find_recipe, recipes
from sft.config.json_schema import SCHEMA_FILE, schema_text
from sft.errors import ConfigError, Problem, SftError
from sft.progress import Progress

_BESIDE_IT = "${recipe_dir:}/"


def execute() -> int:
    """Print each shipped recipe with its one-line purpose."""
    found = recipes()
    width = max(len(recipe.name) for recipe in found)
    progress = Progress()
    for recipe in found:
        progress.say(f"{recipe.name:<{width}}  {recipe.purpose}")
    return 0


def schema() -> int:
    """Print what a recipe may hold, as JSON Schema."""
    Progress().say(schema_text().rstrip("\n"))
    return 0


def copy(name: str, destination: str) -> int:
    """Copy a shipped recipe, the recipes that it starts from, and the files that they refer to; print what was written.

    Raises:
        ConfigError: There is no such recipe, or a file to be written is there already. Nothing is written then.
        SftError: A file can't be written.
    """
    recipe, folder = find_recipe(name), Path(destination)
    if recipe not in recipes():
        raise ConfigError([Problem(key=name, rule="is not a shipped recipe", suggestion="copy your own file yourself")])
    files = sorted(set(_files(recipe)))
    targets = [folder / path.relative_to(recipe.path.parent) for path in files]
    if taken := [target for target in targets if target.exists()]:
        rule, suggestion = "is there already and is not overwritten", "name another folder"
        raise ConfigError([Problem(key=str(target), rule=rule, suggestion=suggestion) for target in taken])
    progress = Progress()
    for path, target in zip(files, targets, strict=True):
        _write(target, path.read_bytes())
        progress.say(f"wrote {target}")
    if not (schema := folder / SCHEMA_FILE).exists():  # several recipes in one folder share it
        _write(schema, schema_text().encode())
    progress.say(f"next: sft run {shlex.quote(str(folder / recipe.path.name))}")
    return 0


def _write(target: Path, content: bytes) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise SftError(f"{target} can't be written: {error.strerror}", fix="name another folder") from error


def _files(recipe: Recipe) -> Iterator[Path]:
    """Yield the recipe, the recipes of its defaults list that lie beside it, and every file they refer to."""
    yield recipe.path
    content = yaml.safe_load(recipe.path.read_text(encoding="utf-8"))
    for entry in content.get("defaults", []):
        base = recipe.path.parent / f"{entry}.yaml"
        if isinstance(entry, str) and base.is_file():
            yield from _files(Recipe(base))
    for reference in _references(content):
        path = recipe.path.parent / reference
        yield from (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _references(value: Any) -> Iterator[str]:
    """Yield every path below ``${recipe_dir:}`` that stands in a recipe."""
    match value:
        case dict():
            for inner in value.values():
                yield from _references(inner)
        case list():
            for inner in value:
                yield from _references(inner)
        case str() if value.startswith(_BESIDE_IT):
            yield value.removeprefix(_BESIDE_IT)
