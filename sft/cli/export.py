"""`sft export`: a recipe as what another system runs, or a run's model in another format."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from sft import runner
from sft.cli import export_model, kfp_options
from sft.config.compose import compose, find_recipe
from sft.config.image import unpinned
from sft.errors import SftError
from sft.files import write_atomically
from sft.progress import Progress
from sft.sweep.spec import refuse_sweep


def model(options: argparse.Namespace) -> int:
    """Export the model of a finished run; see `sft.cli.export_model`."""
    return export_model.execute(options)


def kfp(options: argparse.Namespace) -> int:
    """Print a recipe's pipeline for Kubeflow Pipelines.

    Args:
        options: ``recipe``, ``output``, and of `sft.kfp.pipeline.Cluster` what was given.

    Raises:
        ConfigError: The recipe or an option is wrong.
        SftError: kfp is not installed.
    """
    try:
        from sft.kfp.cluster import Cluster
        from sft.kfp.pipeline import notes, text_of
    except ModuleNotFoundError as error:
        raise SftError(f"sft export kfp: {error}", fix="pip install 'sft-runner[kfp]'") from error
    recipe, cluster = find_recipe(options.recipe), Cluster(**kfp_options.settled(options))
    text = text_of(recipe, cluster)
    for note in notes(recipe, cluster):
        _note(note)
    _tell(text, options.output)
    return 0


def trainjob(options: argparse.Namespace) -> int:
    """Print the TrainJob that a run would make, for a repository whose manifests something else applies.

    Args:
        options: ``recipe``, ``overrides`` and ``output``.

    Raises:
        ConfigError: The recipe is wrong, is a sweep, or trains in no TrainJob.
        SftError: The steps before the training are not done.
    """
    recipe = find_recipe(options.recipe)
    refuse_sweep(recipe, options.overrides, "a TrainJob")
    cfg = compose(recipe, options.overrides)
    manifest = runner.export_trainjob(cfg, Progress(quiet=True))
    if note := unpinned(cfg.training.launcher.image):
        _note(note)
    _tell(_as_yaml([manifest]), options.output)
    return 0


def job(options: argparse.Namespace) -> int:
    """Print the Kubernetes Job that runs a recipe, and the ConfigMap with the recipe if it is the person's own.

    Args:
        options: ``recipe``, ``overrides``, and of `sft.runner.Pod` what was given.

    Raises:
        ConfigError: The recipe is wrong, is a sweep, or can't run in such a pod.
    """
    recipe = find_recipe(options.recipe)
    refuse_sweep(recipe, options.overrides, "a Job")
    given: dict[str, Any] = {f.name: getattr(options, f.name) for f in fields(runner.Pod) if hasattr(options, f.name)}
    manifests = runner.export_job(recipe, options.overrides, runner.Pod(**given))
    if note := unpinned(manifests[-1]["spec"]["template"]["spec"]["containers"][0]["image"]):
        _note(note)
    _tell(_as_yaml(manifests), options.output)
    return 0


class _Blocks(yaml.SafeDumper):
    """Writes texts of several lines as they are."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Blocks.add_representer(str, _block)


def _as_yaml(manifests: list[dict[str, Any]]) -> str:
    return yaml.dump_all(manifests, Dumper=_Blocks, sort_keys=False, allow_unicode=True)


def _tell(text: str, output: str | None) -> None:
    """Print what was exported, or write it into a file and print its name."""
    if output is None:
        sys.stdout.write(text)
    else:
        write_atomically(Path(output), text.encode())
        Progress().say(output)


def _note(text: str) -> None:
    """Tell something beside what is exported, which may go on into another program."""
    sys.stderr.write(f"note: {text}\n")
