"""Owns the manifest of a TrainJob of ``trainer.kubeflow.org/v1alpha1``. Pure: a frozen dataclass in, a mapping out.

Volumes, labels, nodes and the pods' rights go through ``runtimePatches`` (Kubeflow Trainer 2.2 and later), the
environment through ``spec.trainer.env``: the trainer's webhook refuses it in a patch of the container ``node``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sft.errors import SftError

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
KEY_LABEL, PLACE_LABEL, RUN_LABEL = "sft/key", "sft/place", "sft/run"
"""Labels with the key of the job's result in the store, with that store's place, and with the run that made the job.

Two people who train the same in one namespace have the same key; a job is one's own only if it writes to one's place.
"""

JOBSET_LABEL, INDEX_LABEL = "jobset.sigs.k8s.io/jobset-name", "batch.kubernetes.io/job-completion-index"
CONTAINER = "node"
NO_LIMIT = "none"

_MANAGER = "sft/launcher"
_GRACE_SECONDS = 600
"""Time that a pod has to save its state after it is asked to stop."""
_LONGEST_NAME = 45  # JobSet refuses a job whose pods, <job>-node-0-<index>-abcde, have more than 63 characters
_DIGEST_CHARACTERS = 10


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What a run requests from the cluster.

    Attributes:
        run: Id of the run.
        key: Key of its training step in the store.
        namespace: Namespace; None = the client's.
        command: Command of each pod, with its arguments.
        folder: Where on the volume the pods write.
        cpu: Quantity of cores of a pod.
        memory: Quantity of memory of a pod.
        gpus: Number of GPUs of a pod.
        secrets: Secret -> its keys that become environment variables.
        resources: What else a pod asks for, and gets at most: name -> quantity.
        limits: What it gets at most, where that is not what it asks for: name -> quantity, or `NO_LIMIT`.
        capabilities: Linux capabilities of the container.
        affinity: As in a pod.
        suspend: Whether it waits until somebody resumes it.
        deadline_seconds: Seconds after which the cluster ends it; None = never.
    """

    run: str
    key: str
    namespace: str | None
    runtime: str
    image: str
    command: tuple[str, ...]
    num_nodes: int
    procs_per_node: int
    cpu: str
    memory: str
    gpus: int
    pvc: str
    mount_path: str
    folder: str
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()
    service_account: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    fs_group: int | None = None
    resources: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict)
    suspend: bool = False
    deadline_seconds: int | None = None

    @property
    def place(self) -> str:
        """Return a label's value that stands for the volume and the folder on it."""
        return _digest(self.pvc, self.folder)[:20]

    @property
    def name(self) -> str:
        """Return ``sft-<run>-<digest>`` as a host name; the same result in the same place has the same name."""
        slug = re.sub("[^a-z0-9]+", "-", self.run.lower())[: _LONGEST_NAME - len("sft--") - _DIGEST_CHARACTERS]
        own = _digest(self.key, self.place)[:_DIGEST_CHARACTERS]
        return "-".join(part for part in ("sft", slug.strip("-"), own) if part)


def manifest(job: TrainJob) -> dict[str, Any]:
    """Return the object to create."""
    own = {"app.kubernetes.io/managed-by": "sft", RUN_LABEL: label_value(job.run)}
    own |= {KEY_LABEL: job.key, PLACE_LABEL: job.place}
    metadata: dict[str, Any] = {"name": job.name}
    if job.namespace:
        metadata["namespace"] = job.namespace
    metadata["labels"] = {**job.labels, **own}
    if job.annotations:
        metadata["annotations"] = dict(job.annotations)
    spec: dict[str, Any] = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": job.runtime},
        "trainer": _trainer(job),
        "runtimePatches": [{"manager": _MANAGER, "trainingRuntimeSpec": _patch(job, own)}],
    }
    if job.suspend:
        spec["suspend"] = True
    if job.deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = job.deadline_seconds
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob", "metadata": metadata, "spec": spec}


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def label_value(text: str) -> str:
    """Return a text with only the characters that a label's value may have."""
    return re.sub("[^A-Za-z0-9_.-]+", "-", text)[-63:].strip("-_.")


def check(content: Mapping[str, Any]) -> None:
    """Check a manifest against the models of Kubeflow's own API package.

    Raises:
        SftError: The package is not installed, or its models refuse it.
    """
    try:
        from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
    except ModuleNotFoundError as error:
        raise SftError(f"training.launcher.kind=kubeflow: {error}", fix="pip install 'sft-runner[kubeflow]'") from error
    from pydantic import ValidationError

    try:
        TrainerV1alpha1TrainJob.from_dict(dict(content))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SftError(f"the TrainJob does not fit Kubeflow's models: {problems}") from error


def _trainer(job: TrainJob) -> dict[str, Any]:
    resources = {"cpu": job.cpu, "memory": job.memory, **job.resources}
    if job.gpus:
        resources["nvidia.com/gpu"] = str(job.gpus)
    limits = {name: quantity for name, quantity in {**resources, **job.limits}.items() if quantity != NO_LIMIT}
    env = {"HOME": job.mount_path, **job.env}  # the image's home may be no volume
    plain: list[dict[str, Any]] = [{"name": name, "value": _literal(value)} for name, value in env.items()]
    secret = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}
        for name, keys in job.secrets.items()
        for key in keys
    ]
    trainer: dict[str, Any] = {
        "image": job.image,
        "command": [_literal(word) for word in job.command],
        "numNodes": job.num_nodes,
        "numProcPerNode": job.procs_per_node,
        "resourcesPerNode": {"requests": resources, "limits": limits},
    }
    return {**trainer, "env": [*plain, *secret]}


def _literal(text: str) -> str:
    """Return a text in which the kubelet replaces nothing: it would replace ``$(NAME)`` by a variable's value."""
    return text.replace("$(", "$$(")


def _patch(job: TrainJob, own: Mapping[str, str]) -> dict[str, Any]:
    security: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if job.fs_group is not None:
        security["fsGroup"] = job.fs_group
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    if job.capabilities:
        capabilities["add"] = list(job.capabilities)
    mounts = {"workspace": job.mount_path, "shm": "/dev/shm", "tmp": "/tmp"}  # all that can be written to
    pod: dict[str, Any] = {
        "containers": [
            {
                "name": CONTAINER,
                "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": capabilities,
                },
            }
        ],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": job.pvc}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},  # for NCCL; a container's own has 64 MB
            {"name": "tmp", "emptyDir": {}},
        ],
        "securityContext": security,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
    }
    if job.node_selector:
        pod["nodeSelector"] = dict(job.node_selector)
    if job.affinity:
        pod["affinity"] = dict(job.affinity)
    if job.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in job.tolerations]
    if job.service_account:
        pod["serviceAccountName"] = job.service_account
    if job.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in job.image_pull_secrets]
    metadata: dict[str, Any] = {"labels": {**job.labels, **own}}
    if job.annotations:
        metadata["annotations"] = dict(job.annotations)
    node = {"name": CONTAINER, "template": {"spec": {"template": {"metadata": metadata, "spec": pod}}}}
    return {"template": {"spec": {"replicatedJobs": [node]}}}
