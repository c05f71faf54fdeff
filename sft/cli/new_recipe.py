"""Where a recipe goes that a command writes: never over another file."""

from __future__ import annotations

from pathlib import Path

from sft.config import compose
from sft.config.json_schema import SCHEMA_FILE, schema_text
from sft.config.schema import RunConfig
from sft.errors import ConfigError, Problem, SftError


def free_place(name: str) -> Path:
    """Return where a new recipe may be written.

    Raises:
        ConfigError: It is no recipe's name, or there is such a file already.
    """
    path = Path(name)
    if path.suffix != ".yaml" or path.stem == "config":
        rule = "a recipe's name ends in .yaml, and is not config.yaml"
        raise ConfigError([Problem(key=f"--output {name}", rule=rule)])
    if path.exists() or path.is_symlink():
        rule, suggestion = "is there already and is not overwritten", "--output OTHER.yaml, or remove it"
        raise ConfigError([Problem(key=str(path), rule=rule, suggestion=suggestion)])
    return path


def write(target: Path, text: str) -> None:
    """Write a recipe.

    Raises:
        SftError: It can't be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SftError(f"{target} can't be written: {error.strerror}", fix="--output OTHER.yaml") from error


def write_schema(target: Path) -> None:
    """Write the schema by which an editor completes a recipe beside it, where there is none.

    Raises:
        SftError: It can't be written.
    """
    schema = target.parent / SCHEMA_FILE
    try:
        if not schema.exists():
            schema.write_text(schema_text(), encoding="utf-8")
    except OSError as error:
        raise SftError(f"{schema} can't be written: {error.strerror}", fix="--output FOLDER/OTHER.yaml") from error


def composed(target: Path) -> RunConfig:
    """Return what a recipe composes to.

    Raises:
        ConfigError: A setting breaks a rule.
    """
    return compose.compose(compose.find_recipe(str(target)), [])
