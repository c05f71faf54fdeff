"""`sft preview`: samples of a recipe as the model sees them, tokens that count for the loss marked."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sft import record, runner
from sft.artifacts import Artifact, ModelArtifact, TokenizedArtifact
from sft.config import compose
from sft.config.compose import Recipe
from sft.config.schema import RunConfig
from sft.errors import ConfigError, Problem
from sft.planning.plan import build_plan
from sft.progress import Progress
from sft.redaction import redact
from sft.report.preview import as_html, as_json, as_text
from sft.runner.dispatch import pick
from sft.scratch import scratch
from sft.stages.preview import first_samples
from sft.store import Store
from sft.sweep import spec as sweeps

_GOAL = "tokenize"


def execute(
    name_or_path: str, overrides: Sequence[str], command: Sequence[str], *, num: int, json: bool, page: str | None
) -> int:
    """Print the first samples of a recipe; of a sweep, those of its first point.

    What the store lacks is made, as ``sft run --until tokenize`` makes it.

    Args:
        name_or_path: The recipe.
        overrides: Settings.
        command: All that was typed.
        num: How many samples.
        json: Print JSON.
        page: Write them as HTML to this file.

    Raises:
        ConfigError: A setting is wrong.
        SftError: A stage failed.
    """
    if num < 1:
        raise ConfigError([Problem(key="-n", value=str(num), rule="must be at least 1")])
    recipe = compose.find_recipe(name_or_path)
    sweep = sweeps.read(recipe, overrides, asked=False)
    cfg = sweeps.check(sweep)[0] if sweep else compose.compose(recipe, overrides)
    artifacts = _artifacts(cfg, recipe, command, Progress(quiet=json))
    tokens, base = pick(artifacts, _GOAL, TokenizedArtifact), pick(artifacts, "model", ModelArtifact)
    with scratch("preview") as folder:
        samples = first_samples(tokens, base, num, folder)
    if page:
        Path(page).write_text(redact(as_html(f"{cfg.name}: samples as the model sees them", samples)), encoding="utf-8")
    sys.stdout.write((as_json(samples) if json else as_text(samples, in_color=is_color_wanted())) + "\n")
    if page:
        Progress(quiet=json).say(f"page: {page}")
    return 0


def is_color_wanted() -> bool:
    """Return whether standard output is a terminal, and NO_COLOR is not set (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _artifacts(cfg: RunConfig, recipe: Recipe, command: Sequence[str], progress: Progress) -> Mapping[str, Artifact]:
    """Return what the stages up to the tokens made; no record is written where the store has it all."""
    plan = build_plan(cfg, runner.read_environment(cfg)).reaching(_GOAL)
    done = runner.find_done(plan, Store(Path(cfg.run_root) / "store"), record.load(runner.run_folder(cfg)))
    if len(done) == len(plan.steps):
        return {name: entry.artifact for name, entry in done.items()}
    return runner.run(cfg, recipe=recipe.path, command=command, progress=progress, goal=_GOAL).artifacts
