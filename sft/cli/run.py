"""`sft run`: every problem of the configuration at once, then Hydra, which calls back once per job of a sweep."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from sft import record, runner
from sft.cli.compare import print_comparison
from sft.config import compose
from sft.config.compose import Recipe
from sft.config.hydra_app import SWEEPS, call_through_hydra, split_flags
from sft.config.kfp_parameters import hydra_text
from sft.config.schema import LauncherConfig, LauncherKind, RunConfig
from sft.config.ways_out import WAYS_OUT
from sft.errors import ConfigError, Detached, Problem, SftError
from sft.planning.plan import steps_up_to
from sft.progress import Progress
from sft.progress_events import EventProgress
from sft.report.run import summary, write_page
from sft.runner import RunResult, rerun
from sft.sweep import spec as sweeps
from sft.sweep.point import refuse_server_backend
from sft.sweep.run import run_sweep


def execute(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Run a recipe, or each point of a sweep over it; or what a record says, and compare the results.

    Args:
        options: As typed: ``recipe``, ``overrides`` (Hydra's flags among them), ``again``, ``until``, ``detach``,
            ``json``.
        command: All that was typed.

    Raises:
        ConfigError: Before anything runs.
        DataError: There is no record to run again, or it was changed.
        Detached: A cluster trains.
        SftError: A stage failed, outside of a sweep; points of a sweep go on after one that failed.
    """
    progress = EventProgress() if options.json else Progress()
    with progress.ending():
        if options.again:
            return _repeat(options, command, progress)
        if not options.recipe:
            fix = "type `sft run quickstart`, or `sft init FILE` for your own data; `sft recipes` lists more"
            raise ConfigError([Problem(key="sft run", rule="needs a recipe", suggestion=fix)])
        recipe = compose.find_recipe(options.recipe)
        return _run(
            recipe, recipe.path, options.overrides, command, options.until, progress=progress, detach=options.detach
        )


def _repeat(options: argparse.Namespace, command: Sequence[str], progress: Progress) -> int:
    if options.detach:
        raise ConfigError([Problem(key="--detach", rule="is not for --from, which waits to compare")])
    arguments = [*([options.recipe] if options.recipe else []), *options.overrides]
    earlier = rerun.find(Path(options.again))
    if changes := earlier.version_changes():
        progress.say(f"other versions than recorded: {', '.join(changes)}")
    with rerun.recipe(earlier, split_flags(arguments)[1]) as recipe:
        return _run(recipe, earlier.file, arguments, command, options.until, earlier, progress=progress)


def attach(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Resume a run that a cluster trains, as its own command would, from whatever folder this one is called in.

    Args:
        options: As typed: ``run``, its folder; ``overrides``, the ways out that it used (`sft.config.ways_out`), again,
            as the record may have come from elsewhere; ``json``.
        command: All that was typed.

    Raises:
        DataError: There is no record, or it was changed.
        ConfigError: The run trains on its own machine.
        SftError: A stage failed.
    """
    progress = EventProgress() if options.json else Progress()
    with progress.ending():
        return _attach(options.run, options.overrides, command, progress)


def _attach(path: str, overrides: Sequence[str], command: Sequence[str], progress: Progress) -> int:
    earlier = rerun.find(Path(path))
    if earlier.file.name != record.NAME:
        raise ConfigError([Problem(key=f"sft attach {path}", rule="needs a run's folder, not a model's")])
    kind = earlier.facts["config"]["training"]["launcher"]["kind"]
    if not LauncherConfig(kind=LauncherKind(kind)).is_remote:
        rule = f"trains with {kind}, where it was begun: its own command goes on with it"
        raise ConfigError([Problem(key=f"sft attach {path}", rule=rule)])
    if others := [text for text in overrides if text.partition("=")[0] not in WAYS_OUT]:
        rule = "a run is attached to with its own settings"
        raise ConfigError([Problem(key=text, rule=rule, suggestion="leave it out") for text in others])
    settings = [*overrides, f"run_root={hydra_text(str(earlier.file.parent.parent))}"]
    if Path(earlier.facts["cwd"]).is_dir():  # what the recipe says may be relative to it; the run's folder is not
        os.chdir(earlier.facts["cwd"])
    with rerun.recipe(earlier, settings) as recipe:
        return _run(recipe, Path(earlier.facts["recipe"]), settings, command, None, progress=progress)


def _show_failed(made: RunResult, error: SftError, progress: Progress) -> None:
    """Say and write what a run has scored that ends with an error; that one is raised afterwards."""
    if isinstance(error, Detached):
        return
    try:
        if write_page(made, error):
            for line in summary(made):
                progress.say(line)
    except OSError as fault:
        progress.say(f"{made.folder}: its page can't be written: {fault.strerror}")


def _check_detach(cfg: RunConfig, until: str | None) -> None:
    """Raise ConfigError unless a cluster will train, so that there is something to leave to it."""
    rule = "is for a run that a cluster trains"
    if not cfg.training.launcher.is_remote:
        raise ConfigError([Problem(key="--detach", rule=rule, suggestion="add training/launcher=kubeflow")])
    if "train" not in steps_up_to(cfg, until):
        raise ConfigError([Problem(key="--detach", rule=f"{rule}, and --until={until} ends before that")])


def _run(
    recipe: Recipe,
    source: Path,
    arguments: Sequence[str],
    command: Sequence[str],
    until: str | None,
    earlier: rerun.RecordedRun | None = None,
    *,
    progress: Progress,
    detach: bool = False,
) -> int:
    flags, overrides = split_flags(arguments)
    asked = bool(SWEEPS & set(flags))
    flags = [flag for flag in flags if flag not in SWEEPS]
    found = sweeps.read(recipe, overrides, asked=asked)
    if found and detach:
        raise ConfigError([Problem(key="--detach", rule="is for one run: a sweep waits for each of its points")])
    if found and isinstance(progress, EventProgress):
        fix = "`sft compare --json` tells of its points"
        raise ConfigError([Problem(key="--json", rule="is for one run, and this is a sweep", suggestion=fix)])
    if found and not flags:
        return run_sweep(
            found,
            source=source,
            command=command,
            until=until,
            earlier=earlier,
            write_page=write_page,
            on_end=print_comparison,
        )
    if not found:
        compose.compose(recipe, overrides)
    failed: list[SftError | OSError] = []

    def job(composed: DictConfig) -> None:
        try:
            cfg = compose.to_run_config(composed, recipe)
            progress.run = runner.run_folder(cfg).absolute()
            refuse_server_backend(cfg)
            if detach:
                _check_detach(cfg, until)
            if runner.is_worker_node(cfg):
                runner.run_worker_node(cfg, progress=progress, goal=until)
                return
            result = runner.run(
                cfg,
                recipe=source,
                command=command,
                progress=progress,
                goal=until,
                detach=detach,
                on_failure=lambda made, error: _show_failed(made, error, progress),
            )
        except (SftError, OSError) as error:  # kept, as Hydra would print it in its own way
            failed.append(error)
            return
        write_page(result)
        for line in summary(result):
            progress.say(line)
        for line in earlier.comparison(result.record) if earlier else ():
            progress.say(line)
        if earlier and result.nothing_to_do:
            progress.say("run_root=FOLDER does all of it anew")

    call_through_hydra(recipe, [*flags, "--multirun"] if found else flags, compose.as_hydra(overrides), job)
    for error in failed:
        raise error
    return 0
