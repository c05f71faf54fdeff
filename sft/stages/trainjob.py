"""The training stage in the pods of a Kubeflow TrainJob: our settings as the job's, and what it asks of the volume.

What is trained, and how, is `sft.stages.training_task`'s to say. The pods see nothing of this machine but the shared
volume.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sft.adapters import hub, local_files
from sft.adapters.instructlab import pod_entrypoint
from sft.adapters.instructlab.pod_entrypoint import NodeExit
from sft.adapters.instructlab.settings import TrainingTask
from sft.adapters.kubeflow import job
from sft.adapters.kubeflow.access import Access, connect
from sft.adapters.kubeflow.job import JobDisplay
from sft.adapters.kubeflow.manifest import TrainJob, check, manifest
from sft.adapters.kubeflow.watch import JobWatcher
from sft.config.schema import LauncherConfig, ModelSource, RunConfig, TrainingConfig
from sft.errors import ConfigError, Detached, Problem
from sft.planning.resources import Resources, resolve_resources
from sft.progress import Progress

_NO_KEY = "0" * 20


def check_volume(cfg: RunConfig) -> None:
    """Check that what the pods need lies on the volume that they share with this process.

    Raises:
        ConfigError: It doesn't.
    """
    launcher, problems = cfg.training.launcher, list[Problem]()
    mount = Path(launcher.mount_path)
    rule = f"must lie under training.launcher.mount_path={mount}, where the pods see the volume {launcher.pvc}"
    if not _is_under(Path(cfg.run_root), mount):
        suggestion = f"mount the volume at {mount} here too, and say run_root={mount}/runs"
        problems.append(Problem(key="run_root", value=cfg.run_root, rule=rule, suggestion=suggestion))
    if cfg.model.source is ModelSource.pretrained:
        folder = local_files.local_path(cfg.model.name_or_path)
        if not folder.is_dir() and not _is_under(hub.cache_folder(), mount):
            suggestion = f"set HF_HOME={mount}/huggingface: the downloaded model is kept there"
            problems.append(Problem(key="HF_HOME", value=str(hub.cache_folder()), rule=rule, suggestion=suggestion))
        elif folder.is_dir() and not _is_under(folder, mount):
            suggestion = f"copy it to {mount}/models"
            problems.append(
                Problem(key="model.name_or_path", value=cfg.model.name_or_path, rule=rule, suggestion=suggestion)
            )
    if problems:
        raise ConfigError(problems)


def check_cluster(cfg: TrainingConfig, run_id: str, progress: Progress) -> None:
    """Ask the cluster whether it would take the TrainJob, before anything is done that costs.

    Raises:
        ConfigError: No cluster is named.
        SftError: It can't be reached, or would not take it.
    """
    asked = _job(cfg, resolve_resources(cfg), run_id=run_id, key=_NO_KEY, logs=Path(cfg.launcher.mount_path))
    job.check_access(connect(_access(cfg.launcher), progress.say), asked, progress.say)


def train_in_pods(
    cfg: TrainingConfig, task: TrainingTask, resources: Resources, display: JobDisplay, *, detach: bool
) -> None:
    """Train to the end, in the TrainJob that is at work already if there is one.

    Args:
        cfg: The training settings.
        task: What the pods do.
        resources: What they do it on and with.
        display: Where what is seen goes.
        detach: Whether the job is left to itself once it is there.

    Raises:
        Detached: It is.
        Preempted: This process was asked to end; the job trains on.
        StageError: The job failed, or the cluster refuses it.
    """
    cluster = connect(_access(cfg.launcher), lambda _: None)  # what there is to say of it was said at the start
    asked = _job(cfg, resources, run_id=task.run_id, key=task.key, logs=task.logs)
    name = job.find_or_create(cluster, asked, logs=task.logs, prepare=lambda: _prepare(cfg, task), display=display)
    if detach:
        raise Detached(f"TrainJob {name} trains on")
    JobWatcher(
        cluster,
        asked,
        name,
        logs=task.logs,
        start_timeout_seconds=cfg.launcher.start_timeout_seconds,
        display=display,
    ).watch()


def export(cfg: TrainingConfig, task: TrainingTask, resources: Resources) -> dict[str, Any]:
    """Return the TrainJob that a run would make, and put its pods' settings on the volume.

    Raises:
        SftError: Kubeflow's models refuse it.
    """
    made = manifest(_job(cfg, resources, run_id=task.run_id, key=task.key, logs=task.logs))
    check(made)
    if any(end.exit is NodeExit.failed for end in pod_entrypoint.node_reports(task.logs)):
        pod_entrypoint.clear_notes(task.logs)  # not else: a job of this training may be at work
    pod_entrypoint.save(task.logs, task.main, task.options, cfg.env)
    return made


def _prepare(cfg: TrainingConfig, task: TrainingTask) -> None:
    pod_entrypoint.clear_notes(task.logs)
    pod_entrypoint.save(task.logs, task.main, task.options, cfg.env)


def _job(cfg: TrainingConfig, resources: Resources, *, run_id: str, key: str, logs: Path) -> TrainJob:
    launcher = cfg.launcher
    return TrainJob(
        run=run_id,
        key=key,
        namespace=launcher.namespace,
        runtime=launcher.runtime,
        image=launcher.image,
        command=("python", "-P", "-m", "sft.adapters.instructlab.pod_entrypoint", str(logs)),
        num_nodes=resources.nodes.num,
        procs_per_node=resources.num_processes,
        cpu=launcher.pod_cpu,
        memory=launcher.pod_memory,
        gpus=resources.num_gpus,
        pvc=launcher.pvc,
        mount_path=launcher.mount_path,
        folder=str(logs),
        env=dict(cfg.env),
        secrets={name: tuple(keys) for name, keys in launcher.secrets.items()},
        labels=dict(launcher.labels),
        annotations=dict(launcher.annotations),
        node_selector=dict(launcher.node_selector),
        tolerations=tuple(dict(toleration) for toleration in launcher.tolerations),
        service_account=launcher.service_account,
        image_pull_secrets=tuple(launcher.image_pull_secrets),
        fs_group=launcher.fs_group,
        resources=dict(launcher.resources),
        limits=dict(launcher.limits),
        capabilities=tuple(launcher.capabilities),
        affinity=dict(launcher.affinity),
        suspend=launcher.suspend,
        deadline_seconds=launcher.deadline_seconds,
    )


def _access(cfg: LauncherConfig) -> Access:
    return Access(namespace=cfg.namespace, verify_tls=cfg.verify_tls, ca=cfg.ca)


def _is_under(path: Path, folder: Path) -> bool:
    return path.expanduser().resolve().is_relative_to(folder.resolve())
