"""`sft run`: every problem of the configuration at once, then Hydra, which calls back once per job of a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sft import logs, record, runner
from sft.artifacts import EvalReport, ModelPackage, RegisteredModel, UploadedModel
from sft.cli import again
from sft.config import compose
from sft.config.compose import Recipe
from sft.config.original import hydra_text
from sft.config.schema import EvalBackend, LauncherKind, RunConfig
from sft.errors import ConfigError, Problem, SftError
from sft.progress import Progress
from sft.scores import change
from sft.stages.evaluate import HOLDOUT

_QUIET = ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled")


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
    return _run(recipe, recipe.path, arguments, command, until, tell, detach=detach)


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
        return _run(recipe, Path(earlier.facts["recipe"]), root, command, None, tell)


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

    def compared(result: runner.RunResult, progress: Progress) -> None:
        tell(result, progress)
        for line in earlier.comparison(result.record):
            progress.say(line)
        if result.nothing_to_do:
            progress.say("run_root=FOLDER does all of it anew")

    if changes := earlier.version_changes():
        Progress().say(f"other versions than recorded: {', '.join(changes)}")
    with again.recipe(earlier, split_flags(arguments)[1]) as recipe:
        return _run(recipe, earlier.file, arguments, command, until, compared)


def _run(
    recipe: Recipe,
    source: Path,
    arguments: Sequence[str],
    command: Sequence[str],
    until: str | None,
    done: Callable[[runner.RunResult, Progress], None],
    *,
    detach: bool = False,
) -> int:
    flags, overrides = split_flags(arguments)
    if {"-m", "--multirun"} & set(flags):
        if detach:
            raise ConfigError([Problem(key="--detach", rule="is for one run: a sweep waits for each of its jobs")])
        compose.check_sweep(recipe, overrides)
    else:
        compose.compose(recipe, overrides)
    progress = Progress()
    failed: list[tuple[str, SftError]] = []

    def job(composed: DictConfig) -> None:
        name = _job_name(overrides)
        if name:
            progress.say(f"\n[{name}]")
        try:
            cfg = compose.to_run_config(composed, recipe)
            _refuse_server(cfg)
            if detach and cfg.training.launcher.kind is not LauncherKind.kubeflow:
                rule = "is for a run that a cluster trains"
                raise ConfigError([Problem(key="--detach", rule=rule, suggestion="add training/launcher=kubeflow")])
            if runner.follows(cfg):
                runner.follow(cfg, progress=progress, goal=until)
                return
            result = runner.run(cfg, recipe=source, command=command, progress=progress, goal=until, detach=detach)
        except SftError as error:  # kept, as Hydra would print it in its own way; the next job goes on
            failed.append((name, error))
            if name:
                logs.complain(error)
        else:
            done(result, progress)

    through_hydra(recipe, flags, [*_QUIET, *compose.as_hydra(overrides)], job)
    for name, error in failed:
        if not name:
            raise error
        progress.say(f"failed: {name}")
    return 1 if failed else 0


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the overrides."""
    from hydra._internal.utils import get_args_parser

    parsed, unknown = get_args_parser().parse_known_args(list(arguments))
    overrides = [*parsed.overrides, *unknown]
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return flags, overrides


def through_hydra(
    recipe: Recipe, flags: Sequence[str], overrides: Sequence[str], job: Callable[[DictConfig], None]
) -> None:
    """Hands flags and overrides to Hydra, which composes the recipe and calls `job`."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors and exits by itself
    compose.prepare(recipe)
    GlobalHydra.instance().clear()
    sys.argv[1:] = [*flags, *compose.defaults_of(recipe), *overrides]
    hydra.main(version_base="1.3", config_path=str(recipe.path.parent), config_name=recipe.path.stem)(job)()


def _refuse_server(cfg: RunConfig) -> None:
    """A server that runs already has some model, not the one that this run will train.

    Raises:
        ConfigError: It is asked for scores.
    """
    if cfg.eval.enabled and cfg.eval.backend is EvalBackend.local_chat_completions:
        rule = "scores what a server has, not what this run trains"
        value, suggestion = cfg.eval.backend.name, "score it with `sft eval` once it is served"
        raise ConfigError([Problem(key="eval.backend", value=value, rule=rule, suggestion=suggestion)])


def _job_name(overrides: Sequence[str]) -> str:
    """Number of a sweep's job and what it changes; empty outside of a sweep."""
    here = HydraConfig.get()
    if here.mode is None or here.mode.name != "MULTIRUN":
        return ""
    fixed = {*compose.as_hydra(overrides), *(text for text in here.overrides.task if text.startswith("++name="))}
    swept = [text.lstrip("+") for text in here.overrides.task if text not in fixed]
    return f"{here.job.num + 1}: {' '.join(swept) or 'as it is'}"


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
