"""Settings of `training.launcher`: what starts the ranks, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from sft import __version__


class LauncherKind(Enum):
    """What starts the ranks."""

    torchrun = "torchrun"
    kubeflow = "kubeflow"


@dataclass(kw_only=True)
class LauncherConfig:
    """Processes of the training stage. From `image` on, settings are a TrainJob's: they need `kind: kubeflow`."""

    kind: LauncherKind = LauncherKind.torchrun
    num_workers: int = 1
    """Machines that train together on one `run_root`. torchrun: on each the same command runs (`--nnodes`); kubeflow:
    pods of the TrainJob (`numNodes`)."""
    node_rank: int | None = None
    """torchrun: which of them this one is, from 0; null = `PET_NODE_RANK`. Node 0 also does the other stages."""
    rendezvous: str | None = None
    """torchrun: `host:port` of node 0; null = `PET_MASTER_ADDR` and `PET_MASTER_PORT`."""
    gpus_per_worker: int | None = None
    """GPUs of a machine that train; null = all that are there. A TrainJob asks for so many in each pod; 0 = none."""
    procs_per_worker: int | None = None
    """Ranks on a machine; null = one per GPU, or one on a machine without. torchrun: `--nproc-per-node`; kubeflow:
    `numProcPerNode`."""
    image: str = f"sft:{__version__}"
    """Image of the pods, with this version of `sft` in it (`Containerfile`)."""
    namespace: str | None = None
    """Of the TrainJob; null = that of the kubeconfig's context, or of the pod that `sft` runs in."""
    runtime: str = "torch-distributed"
    """The `ClusterTrainingRuntime`."""
    cpu: str = "4"
    """Cores of a pod, as a Kubernetes quantity."""
    memory: str = "64Gi"
    """Memory of a pod, as a Kubernetes quantity."""
    pvc: str = "sft-workspace"
    """Claim of the volume that the pods share with this process; `run_root` lies on it."""
    mount_path: str = "/workspace"
    """Where that volume is mounted, here and in the pods."""
    secrets: dict[str, list[str]] = field(default_factory=dict)
    """Keys of Kubernetes secrets that the pods get as environment variables of the same names: `{wandb:
    [WANDB_API_KEY]}`. The secret must be there; its values are never read here."""
    labels: dict[str, str] = field(default_factory=dict)
    """Of the TrainJob and its pods; a queue of Kueue is `kueue.x-k8s.io/queue-name`."""
    annotations: dict[str, str] = field(default_factory=dict)
    """Of the TrainJob and its pods."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes that the pods may run on."""
    tolerations: list[dict[str, str]] = field(default_factory=list)
    """Taints that the pods bear, as in a pod: `key`, `operator`, `value`, `effect`."""
    service_account: str | None = None
    """Of the pods; null = the namespace's default. They need no right."""
    image_pull_secrets: list[str] = field(default_factory=list)
    """Secrets with which the image is pulled."""
    fs_group: int | None = None
    """Group that owns the volume in the pods (`fsGroup`); null = the cluster's choice, as OpenShift makes it."""
    verify_tls: bool = True
    """Whether the API server must show a certificate that is trusted."""
    ca: str | None = None
    """PEM of the authority that signed it, where `KUBERNETES_SERVER_URL` names the server; null = the pod's own, or the
    system's. A kubeconfig brings its own."""
    start_timeout_seconds: int | None = None
    """A TrainJob whose pods don't all run after so long is ended, with the reason; null = it waits for its place."""

    @property
    def is_remote(self) -> bool:
        """Whether the ranks run on other machines than this process, of which only the configuration is known."""
        return self.kind is LauncherKind.kubeflow
