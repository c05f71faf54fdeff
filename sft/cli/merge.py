"""`sft merge`: adapters of one model, each by a weight, put into its weights."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from sft.adapters import base_model
from sft.adapters.local_files import local_path
from sft.errors import ConfigError, Problem
from sft.files import path_from_here
from sft.progress import Progress
from sft.stages import merge


def execute(options: argparse.Namespace) -> int:
    """Merge, and say where the model is.

    Args:
        options: ``base``, ``adapters`` (``FOLDER`` or ``FOLDER=WEIGHT``), ``output``, ``revision``,
            ``trust_remote_code``.

    Raises:
        ConfigError: A weight is no number, or a folder is to have a revision.
        SftError: A folder holds no adapter of that model, or the output is there.
    """
    progress = Progress()
    folder, revision = local_path(options.base), ""
    if folder.is_dir() and options.revision:
        rule = f"is of a model on the hub, and {options.base} is a folder"
        raise ConfigError([Problem(key="--revision", value=options.revision, rule=rule, suggestion="leave it out")])
    adapters = [_weighted(text) for text in options.adapters]
    if not folder.is_dir():
        progress.update(f"fetching {options.base}")
        folder, revision = base_model.fetch(options.base, options.revision, progress.update)
    base = merge.Base(
        name=options.base, revision=revision, folder=folder.resolve(), trust_remote_code=options.trust_remote_code
    )
    output = Path(options.output).absolute()
    merge.merge(base, adapters, output, progress)
    for adapter in adapters:
        progress.say(f"  {adapter.weight:+g} x {adapter.files.folder}")
    progress.say(f"model  {path_from_here(output)}, record {merge.RECORD}")
    return 0


def _weighted(text: str) -> merge.Weighted:
    """Return the adapter that an argument names; of a folder's name, what follows the last ``=`` is no weight."""
    name, separator, number = text.rpartition("=")
    if not separator or Path(text).is_dir():
        return merge.Weighted(files=merge.find(Path(text), text))
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ConfigError([Problem(key=text, rule="must be FOLDER or FOLDER=WEIGHT, a finite number")])
    return merge.Weighted(files=merge.find(Path(name), name), weight=weight)
