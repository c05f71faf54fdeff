"""`sft export model`: the model of a finished run in another format, scored again before it counts as done."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path

from sft import record, runner
from sft.config import compose
from sft.config.ways_out import WAYS_OUT
from sft.errors import ConfigError, Problem
from sft.files import path_from_here
from sft.progress import Progress
from sft.runner import rerun
from sft.runner.export_kserve import Serving
from sft.stages.export_card import ExportFormat

_GROUPS = ("model", "eval")


def execute(options: argparse.Namespace) -> int:
    """Export a run's model and print how its scores compare.

    Args:
        options: ``run``, ``overrides`` (the ways out that the run used, again), and what `runner.ExportRequest` holds.

    Raises:
        ConfigError: An option is wrong.
        DataError: There is no finished run.
        GateError: The export misses a gate.
        SftError: It can't be exported so.
    """
    earlier = rerun.find(Path(options.run))
    if earlier.file.name != record.NAME:
        raise ConfigError([Problem(key=f"sft export model {options.run}", rule="needs a run's folder, not a model's")])
    if others := [text for text in options.overrides if text.partition("=")[0] not in WAYS_OUT]:
        rule = "an export is scored with the run's own settings"
        raise ConfigError([Problem(key=text, rule=rule, suggestion="leave it out") for text in others])
    with rerun.recipe(earlier, options.overrides, groups=_GROUPS) as recipe:
        cfg = compose.compose(recipe, options.overrides, needs_data=False)
    given = {f.name: getattr(options, f.name) for f in fields(Serving) if hasattr(options, f.name)}
    request = runner.ExportRequest(
        format=ExportFormat(options.format),
        output=Path(options.output).absolute(),
        kind=options.kind,
        keep=options.keep,
        llama_quantize=_from_here(options.llama_quantize),
        python=_from_here(options.python),
        calibration_samples=options.calibration_samples,
        serving=Serving(**given) if given else None,
    )
    shown = path_from_here(request.output)
    if Path(earlier.facts["cwd"]).is_dir():  # what the recipe says may be relative to it
        os.chdir(earlier.facts["cwd"])
    progress = Progress()
    scores = runner.export_model(cfg, folder=earlier.file.parent, request=request, progress=progress)
    progress.say("")
    for line in scores.lines():
        progress.say(line)
    if scores.comparison:
        progress.say(f"differences: {scores.comparison.explained}")
    progress.say(f"outcome     {scores.outcome.value}")
    progress.say(f"export      {shown}")
    return 0


def _from_here(program: str | None) -> str | None:
    """Return a program's path so that it stays the same in another working folder."""
    return None if program is None else str(Path(program).expanduser().absolute())
