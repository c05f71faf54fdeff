"""What Kubernetes gives the tasks of a pipeline, settled when it is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kfp import dsl, kubernetes

from sft import __version__
from sft.adapters.os.pod_secrets import KUBERNETES, pod_secrets, second

IMAGE = f"sft:{__version__}"
_CPU = {"dataset": "1", "training": "4", "evaluation": "4", "registry": "1"}
_MEMORY = {"dataset": "4Gi", "training": "16Gi", "evaluation": "16Gi", "registry": "4Gi"}
_WAITING = ("1", "4Gi")
"""Of a task whose work a TrainJob does."""


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """A taint of nodes that a task may run on all the same; an empty `effect` is any, an empty `value` any, too."""

    key: str
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What is settled when a pipeline is compiled.

    Attributes:
        image: With `sft` in it: the Containerfile's; None = the recipe's `training.launcher.image`, as a TrainJob has.
        workspace_size: Of the volume that the tasks share, for as long as a run lasts. With a TrainJob they share the
            recipe's own (`training.launcher.pvc`), which stays, and this and the next two say nothing.
        access_modes: Of that volume.
        storage_class: Of that volume; None = the cluster's default.
        gpus: GPUs of a task that trains or scores; 0 = none. A task that waits for a TrainJob takes none.
        cpu: Task -> cores that it asks for; others ask for what `_CPU` says.
        memory: Task -> memory that it asks for; others for what `_MEMORY` says.
        memory_limit: Task -> the most memory that it gets; others have no limit.
        timeout_seconds: Task -> seconds after which it is ended; others have no limit.
        retries: How often a task that failed, was evicted or was told to stop is tried again. What is done is not
            done again.
        node_selector: Labels of the nodes that a task that trains or scores may run on.
        tolerations: Of the same tasks.
        pull_secrets: Secrets with which the image is pulled; none = those of `training.launcher.image_pull_secrets`.
        labels: Of every task's pod.
        caching: Whether KFP may skip a task whose inputs it knows. The workspace of another run is gone by then, so
            later tasks do the work again.
        minio_secret: Secret with ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_ENDPOINT_URL``; may be absent.
        s3_secret: The same by another name, for where that one is absent.
        hf_secret: Secret with ``HF_TOKEN``; may be absent.
        oci_secret: Secret with a Docker ``config.json`` for a base model in an OCI registry; may be absent.
        registry_secret: Secret with ``MODEL_REGISTRY_TOKEN``, or with MLflow's ``MLFLOW_TRACKING_TOKEN``, or
            ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``; may be absent.
        kubernetes_secret: Secret with ``server_url`` and ``auth_token``, or ``KUBERNETES_SERVER_URL`` and
            ``KUBERNETES_AUTH_TOKEN``, for a recipe that trains in a TrainJob; absent = the task's service account.
    """

    image: str | None = None
    workspace_size: str = "50Gi"
    access_modes: tuple[str, ...] = ("ReadWriteMany",)
    storage_class: str | None = None
    gpus: int = 1
    cpu: Mapping[str, str] = field(default_factory=dict)
    memory: Mapping[str, str] = field(default_factory=dict)
    memory_limit: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: Mapping[str, int] = field(default_factory=dict)
    retries: int = 2
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    caching: bool = False
    minio_secret: str = "minio-secret"
    s3_secret: str = "s3-secret"
    hf_secret: str = "hf-token"
    oci_secret: str = "oci-pull-secret-model-download"
    registry_secret: str = "registry-login"
    kubernetes_secret: str = "kubernetes-credentials"


def equip(task: dsl.PipelineTask, name: str, cluster: Cluster, *, waits: bool) -> None:
    """Give a task what every task has: a later one looks at the data's source and the base model again.

    Args:
        task: The task.
        name: Its name.
        cluster: What is settled.
        waits: Whether a TrainJob does its work.
    """
    task.set_container_image(cluster.image or IMAGE)
    task.set_caching_options(cluster.caching)
    task.set_cpu_request(cluster.cpu.get(name, _WAITING[0] if waits else _CPU[name]))
    task.set_memory_request(cluster.memory.get(name, _WAITING[1] if waits else _MEMORY[name]))
    if name in cluster.memory_limit:
        task.set_memory_limit(cluster.memory_limit[name])
    if name in cluster.timeout_seconds:
        kubernetes.set_timeout(task, cluster.timeout_seconds[name])
    if cluster.retries:
        task.set_retry(cluster.retries, backoff_duration="30s", backoff_factor=2)
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.pull_secrets))
    for label, value in cluster.labels.items():
        kubernetes.add_pod_label(task, label, value)
    keys: dict[str, dict[str, str]] = {}
    secrets = {"hf": cluster.hf_secret, "minio": cluster.minio_secret, "s3": cluster.s3_secret}
    for found in pod_secrets(**secrets, oci=cluster.oci_secret, registry=cluster.registry_secret):
        keys.setdefault(found.secret, {})[found.key] = found.variable
    for secret, variables in keys.items():
        kubernetes.use_secret_as_env(task, secret, variables, optional=True)


def give_credentials(task: dsl.PipelineTask, cluster: Cluster) -> None:
    """Give a task the API server's address and token, by either spelling of their keys."""
    spelled = {key: name for name, key in KUBERNETES.items()} | {name: second(name) for name in KUBERNETES}
    kubernetes.use_secret_as_env(task, cluster.kubernetes_secret, spelled, optional=True)


def speed_up(task: dsl.PipelineTask, cluster: Cluster) -> None:
    """Give a task that computes its GPUs, its nodes, and shared memory for its processes."""
    if cluster.gpus:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(cluster.gpus)
    kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory")
    for label, value in cluster.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for taint in cluster.tolerations:
        kubernetes.add_toleration(
            task,
            key=taint.key,
            operator="Equal" if taint.value else "Exists",
            value=taint.value or None,
            effect=taint.effect or None,
        )
