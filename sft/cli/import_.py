"""`sft import`: a configuration of axolotl, LLaMA-Factory, torchtune or TRL as a recipe, and what each key became."""

from __future__ import annotations

import shlex
from pathlib import Path

from sft.cli import new_recipe
from sft.errors import ConfigError
from sft.importing.convert import Imported, convert
from sft.importing.recipe_text import TITLES, line_of, text_of
from sft.importing.rows import Kind
from sft.progress import Progress


def execute(file: str, *, project: str | None, output: str, devices: int) -> int:
    """Write the recipe, and say of each setting what it became.

    Args:
        file: The configuration.
        project: Whose it is; None = as its keys say.
        output: Where the recipe goes.
        devices: How many ranks the configuration was written for.

    Returns:
        0; 1 where the recipe is written, but something in it has to be filled in or mended before it runs.

    Raises:
        ConfigError: The file can't be read, is of no known project, or there is a recipe already.
        SftError: The recipe can't be written.
    """
    target, progress = new_recipe.free_place(output), Progress()
    imported = convert(Path(file), project, devices)
    _tell(imported, progress)
    new_recipe.write(target, text_of(imported, Path(file).name))
    new_recipe.write_schema(target)
    progress.say("")
    try:
        new_recipe.composed(target)
    except ConfigError as error:
        progress.say(f"wrote {output}, in which this is left to do before it runs:")
        for problem in error.problems:
            progress.say(f"  {problem}")
        return 1
    progress.say(f"wrote {output}")
    progress.say(f"next: sft plan {shlex.quote(output)}   what it will do, and whether it fits")
    return 0


def _tell(imported: Imported, progress: Progress) -> None:
    for kind in Kind:
        found = imported.of(kind)
        progress.say(f"{TITLES[kind]}: {len(found)}")
        for told in found:
            progress.say(f"  {line_of(told)}")
    if defaults := imported.defaults:
        progress.say(f"not said there, so {imported.project.title}'s default: {len(defaults)}")
        for told in defaults:
            progress.say(f"  {line_of(told)}")
