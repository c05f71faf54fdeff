"""`sft run`: every problem of the configuration at once, then Hydra, which calls back once per job of a sweep."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from sft import record, runner
from sft.artifacts import EvalReport, ModelPackage, RegisteredModel, UploadedModel
from sft.cli import again
from sft.cli.hydra import QUIET, SWEEPS, split_flags, through_hydra
from sft.cli.point import refuse_server
from sft.cli.sweep import sweep
from sft.config import compose
from sft.config import sweep as sweeps
from sft.config.compose import Recipe
from sft.config.original import hydra_text
from sft.config.schema import LauncherKind
from sft.errors import ConfigError, Problem, SftError
from sft.progress import Progress
from sft.scores import change
from sft.stages.evaluate import HOLDOUT


def execute(
    name_or_path: str, arguments: Sequence[str], command: Sequence[str], until: str | None, *, detach: bool = False
) -> int:
    """Runs a recipe, or each job of a sweep over it; goes on after a failed job of a sweep.

    Args:
        name_or_path: The recipe.
        arguments: Overrides and flags of Hydra.
        command: All that was typed.
        until: Only this step or stage, and what it needs; None = the whole run.
        detach: Whether the run ends once a cluster trains.

    Raises:
        ConfigError: Before anything runs.
        Detached: A cluster trains.
        SftError: A stage failed, outside of a sweep.
    """
    recipe = compose.find_recipe(name_or_path)
    return _run(recipe, recipe.path, arguments, command, until, detach=detach)


def attach(path: str, command: Sequence[str]) -> int:
    """Goes on with a run that a cluster trains, as its own command would, from wherever this one is called.

    Args:
        path: The run's folder.
        command: All that was typed.

    Raises:
        DataError: There is no record, or it was changed.
        ConfigError: The run trains on its own machine.
        SftError: A stage failed.
    """
    earlier = again.find(Path(path))
    if earlier.file.name != record.NAME:
        raise ConfigError([Problem(key=f"sft attach {path}", rule="needs a run's folder, not a model's")])
    kind = earlier.facts["config"]["training"]["launcher"]["kind"]
    if kind != LauncherKind.kubeflow.value:
        rule = f"trains with {kind}, where it was begun: its own command goes on with it"
        raise ConfigError([Problem(key=f"sft attach {path}", rule=rule)])
    root = [f"run_root={hydra_text(str(earlier.file.parent.parent))}"]
    if Path(earlier.facts["cwd"]).is_dir():  # what the recipe says may be relative to it; the run's folder is not
        os.chdir(earlier.facts["cwd"])
    with again.recipe(earlier, root) as recipe:
        return _run(recipe, Path(earlier.facts["recipe"]), root, command, None)


def repeat(path: str, arguments: Sequence[str], command: Sequence[str], until: str | None) -> int:
    """Runs what a record says, and compares.

    Args:
        path: A run's or a model's folder.
        arguments: Overrides and flags of Hydra.
        command: All that was typed.
        until: As in `execute`.

    Raises:
        DataError: There is no record, or it was changed.
        ConfigError: Before anything runs.
        SftError: A stage failed, outside of a sweep.
    """
    earlier = again.find(Path(path))
    if changes := earlier.version_changes():
        Progress().say(f"other versions than recorded: {', '.join(changes)}")
    with again.recipe(earlier, split_flags(arguments)[1]) as recipe:
        return _run(recipe, earlier.file, arguments, command, until, earlier)


def _run(
    recipe: Recipe,
    source: Path,
    arguments: Sequence[str],
    command: Sequence[str],
    until: str | None,
    earlier: again.Earlier | None = None,
    *,
    detach: bool = False,
) -> int:
    flags, overrides = split_flags(arguments)
    asked = bool(SWEEPS & set(flags))
    flags = [flag for flag in flags if flag not in SWEEPS]
    found = sweeps.read(recipe, overrides, asked=asked)
    if found and detach:
        raise ConfigError([Problem(key="--detach", rule="is for one run: a sweep waits for each of its points")])
    if found and not flags:
        return sweep(found, source=source, command=command, until=until, earlier=earlier)
    if not found:
        compose.compose(recipe, overrides)
    failed: list[SftError] = []

    def job(composed: DictConfig) -> None:
        progress = Progress()
        try:
            cfg = compose.to_run_config(composed, recipe)
            refuse_server(cfg)
            if detach and cfg.training.launcher.kind is not LauncherKind.kubeflow:
                rule = "is for a run that a cluster trains"
                raise ConfigError([Problem(key="--detach", rule=rule, suggestion="add training/launcher=kubeflow")])
            if runner.follows(cfg):
                runner.follow(cfg, progress=progress, goal=until)
                return
            result = runner.run(cfg, recipe=source, command=command, progress=progress, goal=until, detach=detach)
        except SftError as error:  # kept, as Hydra would print it in its own way
            failed.append(error)
            return
        tell(result, progress)
        for line in earlier.comparison(result.record) if earlier else ():
            progress.say(line)
        if earlier and result.nothing_to_do:
            progress.say("run_root=FOLDER does all of it anew")

    through_hydra(recipe, [*flags, "--multirun"] if found else flags, [*QUIET, *compose.as_hydra(overrides)], job)
    for error in failed:
        raise error
    return 0


def tell(result: runner.RunResult, progress: Progress) -> None:
    """The end of a run: where everything is, and the scores before and after."""
    made = result.artifacts
    if result.nothing_to_do:
        progress.say(f"nothing to do: this run was done at {result.record.ended_at}")
    base, tuned = made.get("evaluate:base"), made.get("evaluate:tuned")
    if isinstance(tuned, EvalReport):
        progress.say("")
        for line in score_lines(tuned, base if isinstance(base, EvalReport) else None):
            progress.say(line)
    package, uploaded, registered = made.get("package"), made.get("upload"), made.get("register")
    progress.say(f"\nrecord      {_short(result.folder / 'run.json')}")
    if isinstance(package, ModelPackage):
        progress.say(f"model       {_short(package.model_dir)}")
    if isinstance(uploaded, UploadedModel):
        progress.say(f"uploaded    {uploaded.uri}")
    if isinstance(registered, RegisteredModel):
        progress.say(f"registered  {registered.name} version {registered.version} in {registered.address}")


def score_lines(after: EvalReport, before: EvalReport | None) -> Iterator[str]:
    """A line per score: before, after, difference; then what of it is a warning."""
    forgotten = []
    for score in after.scores:
        old = before.score(score.name) if before else None
        error = f" ± {score.stderr:.4f}" if score.stderr is not None else ""
        was, difference = (f"{old.value:.4f} → ", f"  {change(old, score)}") if old else ("", "")
        yield f"{score.name:<32} {was}{score.value:.4f}{error}{difference}  ({score.num_samples} samples)"
        if old and score.task != HOLDOUT and (found := change(old, score)).is_clear and not found.better:
            forgotten.append(score.name)
    if forgotten:
        yield f"warning: worse than before on {', '.join(forgotten)}: the model may be forgetting what it knew"
    for task in after.other_data(before) if before else ():
        yield f"warning: the data of {task} changed since the base model was scored; its scores don't compare"


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
