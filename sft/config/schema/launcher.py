"""Settings of `training.launcher`: what starts the ranks, and where."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from sft import __version__
from sft.config.k8s_quantity import is_quantity
from sft.config.schema.bounds import LARGEST_INT32, each, number, pairs, setting, tree
from sft.config.schema.rules import Each, Entries, Text
from sft.config.schema.texts import FREE, LINE, PATH, matches, one_line, parts_fit

_DOMAIN = "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_WORD = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_NAME = Text(matches(_DOMAIN, "must be a Kubernetes name: lower case letters, digits, - and ."))
_NAMESPACE = Text(matches("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", "must be at most 63 lower case letters, digits and -"))
_IMAGE = Text(matches("[A-Za-z0-9][-A-Za-z0-9._:/@]{0,511}", "must name an image with sft in it: host/name:tag"))
_MOUNT = Text(matches("/.*", "must be an absolute path"), matches("[^:]*", "must be without :"), one_line, parts_fit)
_KEY = Text(matches("[A-Za-z_][A-Za-z0-9_]*", "must be a key that can name an environment variable"))
_LABEL_KEY = Text(matches(f"({_DOMAIN}/)?{_WORD}", "must be NAME or DOMAIN/NAME of at most 63 characters"))
_LABEL = Text(matches(f"({_WORD})?", "must be letters, digits, -, _ and ., at most 63 of them"))
_TOLERATION = Entries(
    {
        "key": _LABEL_KEY,
        "operator": Text(matches("Exists|Equal", "must be Exists or Equal")),
        "value": _LABEL,
        "effect": Text(
            matches("NoSchedule|PreferNoSchedule|NoExecute", "must be NoSchedule, PreferNoSchedule or NoExecute")
        ),
    }
)


def _quantity(example: str) -> Text:
    rule = f"must be a Kubernetes quantity, like {example}"
    return Text(lambda text: None if is_quantity(text) else rule)


_CPUS_PER_RANK, _MEMORY_GIB_PER_RANK = 4, 64
"""What a pod asks for by default: for one rank as much as the original pipeline's."""
_LIMIT = Text(lambda text: None if text == "none" or is_quantity(text) else "must be a Kubernetes quantity, or none")
_CAPABILITY = Text(matches("[A-Z][A-Z_]{0,62}", "must be a Linux capability without CAP_, like IPC_LOCK"))


class LauncherKind(Enum):
    """What starts the ranks."""

    torchrun = "torchrun"
    kubeflow = "kubeflow"


@dataclass(kw_only=True)
class LauncherConfig:
    """Processes of the training stage. From `image` on, settings are a TrainJob's: they need `kind: kubeflow`."""

    kind: LauncherKind = LauncherKind.torchrun
    num_workers: int = number(1, at_least=1, at_most=10_000)
    """Machines that train together on one `run_root`. torchrun: on each the same command runs (`--nnodes`); kubeflow:
    pods of the TrainJob (`numNodes`)."""
    node_rank: int | None = number(None, at_least=0, at_most=9_999)
    """torchrun: which of them this one is, from 0; null = `PET_NODE_RANK`. Node 0 also does the other stages."""
    rendezvous: str | None = setting(None, LINE)
    """torchrun: `host:port` of node 0; null = `PET_MASTER_ADDR` and `PET_MASTER_PORT`."""
    gpus_per_worker: int | None = number(None, at_least=0, at_most=1_024)
    """GPUs of a machine that train; null = all that are there. A TrainJob asks for so many in each pod; 0 = none."""
    procs_per_worker: int | None = number(None, at_least=1, at_most=1_024)
    """Ranks on a machine; null = one per GPU, or one on a machine without. torchrun: `--nproc-per-node`; kubeflow:
    `numProcPerNode`."""
    image: str = setting(f"sft:{__version__}", _IMAGE)
    """Image of the pods, with this version of `sft` in it (`Containerfile`)."""
    namespace: str | None = setting(None, _NAMESPACE)
    """Of the TrainJob; null = that of the kubeconfig's context, or of the pod that `sft` runs in."""
    runtime: str = setting("torch-distributed", _NAME)
    """The `ClusterTrainingRuntime`."""
    cpu: str | None = setting(None, _quantity("4 or 500m"))
    """Cores that a pod asks for, as a Kubernetes quantity; null = 4 for each of its ranks."""
    memory: str | None = setting(None, _quantity("64Gi"))
    """Memory that a pod asks for, as a Kubernetes quantity; null = 64Gi for each of its ranks."""
    resources: dict[str, str] = pairs(_LABEL_KEY, _quantity("1 or 20Gi"))
    """What else a pod asks for, and gets at most: `{rdma/hca: "1", ephemeral-storage: 20Gi, hugepages-2Mi: 1Gi}`."""
    limits: dict[str, str] = pairs(_LABEL_KEY, _LIMIT)
    """What a pod gets at most, where that differs from what it asks for: `{cpu: none, memory: 96Gi}`; `none` = no
    limit."""
    capabilities: list[str] = each(_CAPABILITY)
    """Linux capabilities of the container, which has none: RDMA needs `[IPC_LOCK]`. Pod security `restricted` forbids
    them."""
    pvc: str = setting("sft-workspace", _NAME)
    """Claim of the volume that the pods share with this process; `run_root` lies on it."""
    mount_path: str = setting("/workspace", _MOUNT)
    """Where that volume is mounted, here and in the pods."""
    secrets: dict[str, list[str]] = pairs(_NAME, Each(_KEY))
    """Keys of Kubernetes secrets that the pods get as environment variables of the same names: `{wandb:
    [WANDB_API_KEY]}`. The secret must be there; its values are never read here."""
    labels: dict[str, str] = pairs(_LABEL_KEY, _LABEL)
    """Of the TrainJob and its pods; a queue of Kueue is `kueue.x-k8s.io/queue-name`."""
    annotations: dict[str, str] = pairs(_LABEL_KEY, FREE)
    """Of the TrainJob and its pods."""
    node_selector: dict[str, str] = pairs(_LABEL_KEY, _LABEL)
    """Labels of the nodes that the pods may run on."""
    tolerations: list[dict[str, str]] = each(_TOLERATION)
    """Taints that the pods bear, as in a pod: `key`, `operator`, `value`, `effect`."""
    affinity: dict[str, Any] = tree()
    """`nodeAffinity`, `podAffinity` and `podAntiAffinity` as in a pod."""
    service_account: str | None = setting(None, _NAME)
    """Of the pods; null = the namespace's default. They need no right and no token: `sft-ranks` of
    `deploy/trainjob` has neither."""
    image_pull_secrets: list[str] = each(_NAME)
    """Secrets with which the image is pulled."""
    fs_group: int | None = number(None, at_least=0, at_most=LARGEST_INT32)
    """Group that owns the volume in the pods (`fsGroup`); null = the cluster's choice, as OpenShift makes it."""
    suspend: bool = False
    """Whether the TrainJob waits from the start until somebody resumes it (`spec.suspend`), as queues do themselves."""
    deadline_seconds: int | None = number(None, at_least=1, at_most=LARGEST_INT32)
    """Seconds after which the cluster ends the TrainJob (`activeDeadlineSeconds`); null = never."""
    verify_tls: bool = True
    """Whether the API server must show a certificate that is trusted."""
    ca: str | None = setting(None, PATH)
    """PEM of the authority that signed it; null = the kubeconfig's, the pod's own, or the system's."""
    start_timeout_seconds: int | None = number(None, at_least=1, at_most=LARGEST_INT32)
    """A TrainJob whose pods don't all run after so long is ended, with the reason; null = it waits for its place, and
    ten minutes for what nobody mends: an image, claim, secret or service account that is not there."""

    @property
    def is_remote(self) -> bool:
        """Whether the ranks run on other machines than this process, of which only the configuration is known."""
        return self.kind is LauncherKind.kubeflow

    @property
    def num_processes(self) -> int:
        """Ranks on a machine, as far as the settings alone say; a machine's own GPUs may make them more."""
        return self.procs_per_worker or (self.gpus_per_worker or 1 if self.is_remote else 1)

    @property
    def pod_cpu(self) -> str:
        """Cores that a pod asks for."""
        return self.cpu or str(_CPUS_PER_RANK * self.num_processes)

    @property
    def pod_memory(self) -> str:
        """Memory that a pod asks for."""
        return self.memory or f"{_MEMORY_GIB_PER_RANK * self.num_processes}Gi"
