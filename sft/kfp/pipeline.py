"""A recipe as a Kubeflow pipeline: four tasks that do one ``sft run`` in parts, on one workspace.

Owns the pipeline's definition: parameters and tasks. What Kubernetes gives them is `sft.kfp.cluster`, what they do
`sft.kfp.tasks`; kfp puts the text of each component into the YAML, so a component holds nothing but the call. The first
task takes the parameters, the others its overrides: kfp writes a parameter into another one's text without escaping its
quotes.

``python -m sft.kfp.pipeline`` writes ``pipeline.yaml``. No ``from __future__ import annotations`` here: kfp reads the
types of a component.
"""

import functools
import inspect
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes
from kfp.dsl.base_component import BaseComponent

from sft.adapters.signing import KEYLESS
from sft.config import compose
from sft.config.compose import Recipe
from sft.config.image import unpinned
from sft.config.kfp_parameters import PARAMETERS
from sft.config.schema import RegistryKind, RunConfig
from sft.errors import ConfigError, Problem
from sft.kfp import NAMESPACE
from sft.kfp.cluster import IMAGE, Cluster, equip, give_credentials, speed_up
from sft.progress import Progress
from sft.redaction import redact
from sft.runner.export_job import check_alone
from sft.sweep.spec import refuse_sweep

_OPEN = ["dataset.uri=open"]
"""For a recipe that leaves open where the data is: a parameter says it."""
_component = functools.partial(dsl.component, base_image=IMAGE, packages_to_install=[], install_kfp_package=False)


@_component
def dataset(
    recipe: str,
    workspace: str,
    data: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    phase_01_dataset_man_data_uri: str,
    phase_01_dataset_man_data_split: float,
    phase_01_dataset_opt_subset: int,
    phase_02_train_man_model: str,
    phase_02_train_man_batch: int,
    phase_02_train_man_train_batch: int,
    phase_02_train_man_epochs: float,
    phase_02_train_man_tokens: int,
    phase_02_train_man_workers: int,
    phase_02_train_man_gpu: int,
    phase_02_train_opt_annotations: str,
    phase_02_train_opt_cpu: str,
    phase_02_train_opt_env_vars: str,
    phase_02_train_opt_fsdp_sharding: str,
    phase_02_train_opt_labels: str,
    phase_02_train_opt_learning_rate: float,
    phase_02_train_opt_lr_scheduler: str,
    phase_02_train_opt_lr_warmup: int,
    phase_02_train_opt_max_seq_len: int,
    phase_02_train_opt_memory: str,
    phase_02_train_opt_num_procs: str,
    phase_02_train_opt_runtime: str,
    phase_02_train_opt_save_epoch: bool,
    phase_02_train_opt_save_full_state: bool,
    phase_02_train_opt_save_samples: int,
    phase_02_train_opt_seed: int,
    phase_02_train_opt_use_liger: bool,
    phase_03_eval_man_tasks: list,  # type: ignore[type-arg]  # kfp knows the bare type
    phase_03_eval_opt_batch: str,
    phase_03_eval_opt_gen_kwargs: dict,  # type: ignore[type-arg]
    phase_03_eval_opt_limit: int,
    phase_03_eval_opt_log_samples: bool,
    phase_03_eval_opt_model_args: dict,  # type: ignore[type-arg]
    phase_03_eval_opt_verbosity: str,
    phase_04_registry_man_address: str,
    phase_04_registry_man_author: str,
    phase_04_registry_man_name: str,
    phase_04_registry_man_version: str,
    phase_04_registry_opt_description: str,
    phase_04_registry_opt_format_name: str,
    phase_04_registry_opt_format_version: str,
    phase_04_registry_opt_port: int,
) -> list:  # type: ignore[type-arg]
    """Check the settings and the data, and split it."""
    parameters = {name: value for name, value in locals().items() if name.startswith("phase_")}
    from sft.kfp import tasks

    overrides = tasks.overrides_of(parameters, workspace)
    tasks.dataset(recipe, overrides, workspace, data, page)
    return overrides


@_component
def training(
    recipe: str,
    overrides: list,  # type: ignore[type-arg]
    workspace: str,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Fine-tunes the model."""
    from sft.kfp import tasks

    tasks.training(recipe, overrides, workspace, model, metrics, page)


@_component
def evaluation(
    recipe: str,
    overrides: list,  # type: ignore[type-arg]
    workspace: str,
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Scores the model before and after."""
    from sft.kfp import tasks

    tasks.evaluation(recipe, overrides, workspace, metrics, page)


@_component
def registry(
    recipe: str,
    overrides: list,  # type: ignore[type-arg]
    workspace: str,
    run_id: str,
    run_name: str,
    model: dsl.Output[dsl.Model],
) -> None:
    """Package the model with its card and record, and register it."""
    from sft.kfp import tasks

    tasks.registry(recipe, overrides, workspace, run_id, run_name, model)


def pipeline_of(recipe: Recipe, cluster: Cluster) -> BaseComponent:
    """Return a recipe's pipeline: the original's parameters, with the recipe's values as defaults.

    Args:
        recipe: A shipped one is found in the image by its name; of any other, the text goes along.
        cluster: What Kubernetes gives the tasks.

    Raises:
        ConfigError: The recipe is wrong, is a sweep, holds a secret, or refers to files beside it.
    """
    refuse_sweep(recipe, [], "a pipeline")
    cfg, is_open = _composed(recipe)
    is_shipped = recipe in compose.recipes()
    given = recipe.name if is_shipped else f"{recipe.name}:\n{_portable_text(recipe, cfg, is_open=is_open)}"

    launcher = cfg.training.launcher
    in_pods = launcher.is_remote
    pull_secrets = cluster.pull_secrets or tuple(launcher.image_pull_secrets)
    cluster = replace(cluster, image=cluster.image or launcher.image, pull_secrets=pull_secrets)

    def tasks(*channels: Any) -> None:
        # The pods of a TrainJob can't see KFP's workspace, whose claim has another name in each run.
        workspace = launcher.mount_path if in_pods else dsl.WORKSPACE_PATH_PLACEHOLDER
        shared = {"recipe": given, "workspace": workspace}
        data = dataset(**shared, **dict(zip(PARAMETERS, channels, strict=True)))
        later = {**shared, "overrides": data.outputs["Output"]}
        trained = training(**later).after(data)
        scored = evaluation(**later).after(trained)
        told = {"run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER, "run_name": dsl.PIPELINE_JOB_NAME_PLACEHOLDER}
        registered = registry(**later, **told).after(scored)
        named = {"dataset": data, "training": trained, "evaluation": scored, "registry": registered}
        for name, task in named.items():
            equip(task, name, cluster, waits=in_pods and task is trained)
            if in_pods:
                kubernetes.mount_pvc(task, pvc_name=launcher.pvc, mount_path=launcher.mount_path)
        kubernetes.use_field_path_as_env(registered, NAMESPACE, "metadata.namespace")
        if in_pods:
            give_credentials(trained, cluster)
        else:
            speed_up(trained, cluster)
        speed_up(scored, cluster)

    tasks.__signature__ = inspect.Signature(_parameters(cfg, is_open))  # type: ignore[attr-defined]
    tasks.__doc__ = "\n".join(
        [
            f"{recipe.purpose}\n\nArgs:",
            *(f"    {parameter.name}: {parameter.key}" for parameter in PARAMETERS.values()),
        ]
    )
    if in_pods:
        return dsl.pipeline(name="sft")(tasks)
    patch: dict[str, Any] = {"accessModes": list(cluster.access_modes)}
    if cluster.storage_class:
        patch["storageClassName"] = cluster.storage_class
    volume = dsl.KubernetesWorkspaceConfig(pvcSpecPatch=patch)
    workspace = dsl.WorkspaceConfig(size=cluster.workspace_size, kubernetes=volume)
    return dsl.pipeline(name="sft", pipeline_config=dsl.PipelineConfig(workspace=workspace))(tasks)


def _portable_text(recipe: Recipe, cfg: RunConfig, *, is_open: bool) -> str:
    """Return the text of a recipe's file, if a pod needs no more and everybody may read it.

    Raises:
        ConfigError: It holds a secret, or names files that a pod won't find.
    """
    text = recipe.path.read_text(encoding="utf-8")
    problems = []
    if redact(text) != text:
        problems.append(("holds a secret, and its text goes into the pipeline", "put it into a Kubernetes secret"))
    if "${recipe_dir:" in text:
        suggestion = "put them into the image or onto a volume, and name them by their path there"
        problems.append(("refers to files beside it (${recipe_dir:}), which don't go into the pipeline", suggestion))
    found = [Problem(key=str(recipe.path), rule=rule, suggestion=fix) for rule, fix in problems]
    if found := [*found, *_left_behind(cfg)]:
        raise ConfigError(found)
    check_alone(cfg, recipe, text, _OPEN if is_open else [])
    return text


def _left_behind(cfg: RunConfig) -> Iterator[Problem]:
    """Yield the files that a recipe names by where this command is called; `dataset.uri` is a parameter of the run."""
    named = {
        "dataset.eval_uri": cfg.dataset.eval_uri,
        "model.adapter": cfg.model.adapter,
        "model.chat_template": cfg.model.chat_template,
        "training.launcher.ca": cfg.training.launcher.ca,
        "eval.vllm.python": cfg.eval.vllm.python,
        "eval.include_path": cfg.eval.include_path,
        "registry.ca": cfg.registry.ca,
        **{f"dataset.sources.{name}.uri": source.uri for name, source in cfg.dataset.sources.items()},
        **{f"eval.holdouts.{name}.uri": held_out.uri for name, held_out in cfg.eval.holdouts.items()},
    }
    if isinstance(sign := cfg.registry.sign, str) and sign != KEYLESS:
        named["registry.sign"] = sign
    for key, value in named.items():
        if value and "://" not in value and not Path(value).is_absolute():
            rule = "is a file of this machine, and files don't go into the pipeline"
            suggestion = "put it into the image or onto a volume, and give its whole path there; or an address"
            yield Problem(key=key, value=value, rule=rule, suggestion=suggestion)


def _composed(recipe: Recipe) -> tuple[RunConfig, bool]:
    """Return the recipe's settings, and whether it leaves open where the data is."""
    try:
        return compose.compose(recipe, []), False
    except ConfigError as error:
        if [(problem.key, problem.value) for problem in error.problems] != [("dataset.uri", None)]:
            raise
        return compose.compose(recipe, _OPEN), True


def _parameters(cfg: RunConfig, is_open: bool) -> list[inspect.Parameter]:
    found = []
    for parameter in PARAMETERS.values():
        default = parameter.value(cfg)
        if is_open and parameter.key == "dataset.uri":
            default = inspect.Parameter.empty
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        found.append(inspect.Parameter(parameter.name, kind, default=default, annotation=parameter.kind))
    return found


def notes(recipe: Recipe, cluster: Cluster) -> Iterator[str]:
    """Yield what a person should know of a recipe's pipeline before it runs."""
    cfg, _ = _composed(recipe)
    is_kept = cfg.training.launcher.is_remote  # on the recipe's own volume
    if cfg.registry.kind is RegistryKind.mlflow and not cfg.registry.address and not is_kept:
        yield (
            "registry.kind=mlflow has no registry.address: the registration goes with the workspace when a run ends; "
            "give an address, here or as phase_04_registry_man_address"
        )
    launcher, untouched = cfg.training.launcher, Cluster()
    of_volume = {
        "workspace_size": "--workspace-size",
        "access_modes": "--access-mode",
        "storage_class": "--storage-class",
    }
    unread = of_volume if is_kept else {"kubernetes_secret": "--kubernetes-secret"}
    why = "the tasks share training.launcher.pvc" if is_kept else "no task makes a TrainJob"
    for name, flag in unread.items():
        if getattr(cluster, name) != getattr(untouched, name):
            yield f"{flag}: not read, since {why} (training.launcher.kind={launcher.kind.name})"
    if is_kept and cluster.image not in (None, launcher.image):
        yield f"the TrainJob's pods have training.launcher.image={launcher.image}, not the image of the tasks"
    if note := unpinned(cluster.image or launcher.image):
        yield note


def text_of(recipe: Recipe, cluster: Cluster) -> str:
    """Return a recipe's pipeline as YAML, the same text each time.

    Raises:
        ConfigError: The recipe is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline_of(recipe, cluster), str(path))
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    spec = itertools.dropwhile(lambda line: line.startswith("#"), lines)  # kfp's summary, with mappings in any order
    return "".join(spec)


sft_pipeline = pipeline_of(compose.find_recipe("kfp"), Cluster())

if __name__ == "__main__":
    Path("pipeline.yaml").write_text(text_of(compose.find_recipe("kfp"), Cluster()), encoding="utf-8")
    Progress().say("pipeline.yaml")
