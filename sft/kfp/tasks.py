"""What a task of our Kubeflow pipeline does in its pod: a part of ``sft run`` on the shared workspace, and what of it
KFP shows. Owns no work of its own; `sft.kfp.pipeline` says which task calls what.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sft import runner
from sft.adapters.os.command import run_command
from sft.artifacts import (
    Artifact,
    CheckpointArtifact,
    DatasetArtifact,
    EvalReport,
    ModelComparison,
    ModelPackage,
    RegisteredModel,
)
from sft.config import compose
from sft.config.compose import Recipe
from sft.config.kfp_parameters import PARAMETERS, hydra_text
from sft.config.schema import RegistryConfig, RegistryKind
from sft.config.schema.registry import PIPELINE_RUN
from sft.kfp import NAMESPACE
from sft.planning.plan import build_plan
from sft.progress import Progress
from sft.redaction import redact
from sft.report import data as data_report
from sft.report import training as training_report
from sft.report import verdicts as scores_report
from sft.report.run import summary
from sft.runner import RunResult
from sft.runner.dispatch import pick
from sft.stages.epoch_scores import epochs_of
from sft.stages.judge import judges_of
from sft.stages.select import trained_checkpoint
from sft.sweep.point import refuse_server_backend


class Output(Protocol):
    """KFP's artifact, as far as we need it."""

    path: str
    uri: str
    metadata: dict[str, Any]


def overrides_of(parameters: Mapping[str, object], workspace: str) -> list[str]:
    """Return the pipeline's parameters as overrides.

    Args:
        parameters: Value by the original's name.
        workspace: Folder that the tasks share.
    """
    given = [
        f"{name}={hydra_text(value)}" for name, value in parameters.items() if value or not PARAMETERS[name].is_second
    ]
    return [*given, f"run_root={hydra_text(str(Path(workspace, 'runs')))}"]


def dataset(recipe: str, overrides: Sequence[str], workspace: str, made: Output, page: Output) -> None:
    """Check the data and split it."""
    data = pick(_run(_begin(recipe, workspace), overrides, "dataset"), "dataset", DatasetArtifact)
    _hand_over(data.root, made, data)
    Path(page.path).write_text(data_report.as_html(data_report.measure(data, None, None)), encoding="utf-8")


def training(
    recipe: str, overrides: Sequence[str], workspace: str, made: Output, metrics: Output, page: Output
) -> None:
    """Train. Where scores choose the model, this hands over the last epoch's and says so."""
    loaded = _begin(recipe, workspace)
    model = pick(_run(loaded, overrides, "train"), "train", CheckpointArtifact)
    _hand_over(model.model_dir, made, model)
    if metric := compose.compose(loaded, overrides).training.select.score:
        made.metadata["chosen_by"] = f"the last epoch's model; the registry task has the one that {metric} chooses"
    metrics.metadata.update(final_loss=model.final_loss, num_steps=model.num_steps, num_epochs=model.num_epochs)
    Path(page.path).write_text(training_report.as_html(model), encoding="utf-8")


def evaluation(recipe: str, overrides: Sequence[str], workspace: str, metrics: Output, page: Output) -> None:
    """Score the model before and after, and check its gates; do nothing if the recipe scores nothing."""
    loaded = _begin(recipe, workspace)
    cfg = compose.compose(loaded, overrides)
    plan = build_plan(cfg, runner.read_environment(cfg))
    goals = [step.stage for step in plan.steps if step.stage in {"evaluate", "compare", "judge", "gates"}]
    if not goals:
        Progress().say("\n".join(plan.left_out))
        return
    artifacts: dict[str, Artifact] = {}
    failure: SystemExit | None = None
    for goal in dict.fromkeys(goals):  # gates need no epochs, and their scores need a GPU
        try:
            artifacts |= _run(loaded, overrides, goal)
        except SystemExit as error:
            if "evaluate:tuned" not in artifacts:
                raise
            failure = error  # the page of the scores is for that model, too
            break
    tuned = pick(artifacts, "evaluate:tuned", EvalReport)
    base = pick(artifacts, "evaluate:base", EvalReport) if cfg.eval.baseline else None
    for which, report in {"base": base, "tuned": tuned}.items():
        metrics.metadata.update({f"{which}.{score.name}": score.value for score in report.scores} if report else {})
    judges = judges_of(artifacts)
    metrics.metadata.update({judge.score.name: judge.score.value for judge in judges})
    epochs = epochs_of(artifacts)
    for epoch, report in epochs.items():
        metrics.metadata.update({f"epoch-{epoch}.{score.name}": score.value for score in report.scores})
    comparison = pick(artifacts, "compare", ModelComparison) if "compare" in artifacts else None
    trained = trained_checkpoint(artifacts)
    choice = trained.choice if trained else None
    if choice:
        metrics.metadata["model"] = str(choice)
    text = redact(scores_report.as_html(cfg.name, tuned, base, comparison, judges, epochs, choice))
    Path(page.path).write_text(text, encoding="utf-8")
    if failure:
        raise failure


def registry(recipe: str, overrides: Sequence[str], workspace: str, run_id: str, run_name: str, made: Output) -> None:
    """Package the model, and register it if the recipe names a registry.

    Args:
        recipe: As `_begin` takes it.
        overrides: The run's.
        workspace: Folder that the tasks share.
        run_id: Id of the run in Pipelines.
        run_name: Its name there.
        made: KFP's artifact of the model.
    """
    loaded = _begin(recipe, workspace)
    cfg = compose.compose(loaded, overrides)
    if cfg.registry.kind is RegistryKind.kubeflow:
        overrides = [*overrides, *_origin(cfg.registry, run_id, run_name)]
        if cfg.registry.upload is None:
            overrides.append(f"registry.uri={hydra_text(made.uri)}")
    artifacts = _run(loaded, overrides, None)
    package = pick(artifacts, "package", ModelPackage)
    _hand_over(package.model_dir, made, package)
    if "register" in artifacts:
        registered = pick(artifacts, "register", RegisteredModel)
        names = ("registry", "address", "name", "version", "uri")
        made.metadata.update({name: getattr(registered, name) for name in names})


def _origin(cfg: RegistryConfig, run_id: str, run_name: str) -> list[str]:
    """Return overrides that name the run in Pipelines as what made the model, as the registry's page links it.

    A recipe that says any of it itself keeps what it says.
    """
    untouched = RegistryConfig()
    names = ("source_kind", "source_class", "source_group", "source_id", "source_name")
    if any(getattr(cfg, name) != getattr(untouched, name) for name in names):
        return []
    values = (*PIPELINE_RUN, os.environ.get(NAMESPACE), run_id, run_name)
    return [
        f"registry.{name}={hydra_text(value)}" for name, value in zip(names, values, strict=True) if value is not None
    ]


def _begin(recipe: str, workspace: str) -> Recipe:
    """Return the recipe: a shipped one by its name; any other came as ``NAME:``, a line's end and its text."""
    os.environ["HF_HOME"] = str(Path(workspace, "huggingface"))  # where the next task looks for the base model too
    name, is_text, text = recipe.partition(":\n")
    if not is_text:
        return compose.find_recipe(name)
    path = Path(workspace, "recipes", f"{name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return compose.find_recipe(str(path))


def _run(recipe: Recipe, overrides: Sequence[str], until: str | None) -> Mapping[str, Artifact]:
    """Run a recipe up to a step, as ``sft run`` does, and return what each step made, by its name.

    Raises:
        SystemExit: It failed, with the exit code of ``sft run``.
    """
    results: list[RunResult] = []

    def command() -> int:
        cfg = compose.compose(recipe, overrides)
        refuse_server_backend(cfg)
        typed = ["sft", "run", str(recipe.path), *(["--until", until] if until else []), *overrides]
        progress = Progress()
        results.append(runner.run(cfg, recipe=recipe.path, command=typed, progress=progress, goal=until))
        for line in summary(results[0]):
            progress.say(line)
        return 0

    if status := run_command(command, debug=False):
        sys.exit(status)
    return results[0].artifacts


def _hand_over(folder: Path, to: Output, made: Artifact) -> None:
    """Copy the files and plain facts of an artifact to KFP's."""
    shutil.copytree(folder, to.path, dirs_exist_ok=True)
    facts = {name: value for name, value in vars(made).items() if isinstance(value, str | int | float)}
    to.metadata.update(facts)
