"""Rules of `training.launcher`, and of what a TrainJob makes of other settings."""

from __future__ import annotations

import pytest

from sft.config.compose import compose, find_recipe
from sft.errors import ConfigError

CPU = ["training/launcher=kubeflow", "training.launcher.gpus_per_worker=0"]


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(find_recipe("quickstart"), overrides)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.long
@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "training.launcher.cpu=four",
            "training.launcher.cpu=four: must be a Kubernetes quantity, like 4 or 500m, or null",
        ),
        (
            "training.launcher.memory=64GB",
            "training.launcher.memory=64GB: must be a Kubernetes quantity, like 64Gi, or null",
        ),
        (
            "training.launcher.memory='0'",
            "training.launcher.memory=0: must be a Kubernetes quantity, like 64Gi, or null",
        ),
        (
            "training.launcher.resources={nvidia.com/gpu: '1'}",
            "training.launcher.resources=nvidia.com/gpu: is said by training.launcher.gpus_per_worker",
        ),
        (
            "training.launcher.limits={memory: 32Gi}",
            "training.launcher.limits.memory=32Gi: must be at least the 128Gi that a pod asks for",
        ),
        (
            "training.launcher.limits={rdma/hca: '2'}",
            "training.launcher.limits=rdma/hca: gets what it asks for: a limit of its own have only cpu, memory and "
            "ephemeral-storage; use training.launcher.resources",
        ),
        (
            "training.launcher.affinity={topologySpread: {}}",
            "training.launcher.affinity=topologySpread: is no affinity of a pod; "
            "it has nodeAffinity, podAffinity, podAntiAffinity",
        ),
        (
            "training.launcher.capabilities=[cap_ipc_lock]",
            "training.launcher.capabilities=cap_ipc_lock: must be a Linux capability without CAP_, like IPC_LOCK",
        ),
        ("training.launcher.mount_path=work", "training.launcher.mount_path=work: must be an absolute path"),
        (
            "training.launcher.pvc=My_Claim",
            "training.launcher.pvc=My_Claim: must be a Kubernetes name: lower case letters, digits, - and .",
        ),
        (
            "training.launcher.node_rank=0",
            "training.launcher.node_rank=0: is for the TrainJob's runtime to say",
        ),
        (
            "training.env.PET_NNODES=2",
            "training.env.PET_NNODES: is for torchrun to read: the settings of training.launcher say it",
        ),
        ("training.env={A-B: x}", "training.env.A-B: is no name of an environment variable"),
        (
            "training.launcher.secrets={s: [not-a-variable]}",
            "training.launcher.secrets.s=not-a-variable: must be a key that can name an environment variable",
        ),
        (
            "training.launcher.secrets={s: [A], t: [A]}",
            "training.launcher.secrets=A: is said twice: each variable has one source",
        ),
        (
            "training.launcher.labels={sft/key: x}",
            "training.launcher.labels=sft/key: is how sft finds its TrainJob again",
        ),
        (
            "training.launcher.labels={a: 'b c'}",
            "training.launcher.labels.a=b c: must be letters, digits, -, _ and ., at most 63 of them",
        ),
        (
            "training.launcher.tolerations=[{effect: Never}]",
            "training.launcher.tolerations.0.effect=Never: must be NoSchedule, PreferNoSchedule or NoExecute",
        ),
        (
            "training.launcher.pvc='claim\n'",
            "training.launcher.pvc=claim\\n: must be a Kubernetes name: lower case letters, digits, - and .",
        ),
        (
            "training.launcher.namespace=a.b",
            "training.launcher.namespace=a.b: must be at most 63 lower case letters, digits and -, or null",
        ),
        (
            "training.launcher.image=sft 1",
            "training.launcher.image=sft 1: must name an image with sft in it: host/name:tag",
        ),
        ("training.launcher.mount_path=/a:b", "training.launcher.mount_path=/a:b: must be without :"),
        (
            "training.launcher.secrets={s: [PET_NNODES]}",
            "training.launcher.secrets=PET_NNODES: is for the TrainJob's runtime to set",
        ),
        (
            "training.effective_batch_size=7",
            "training.effective_batch_size=7: must be at least the 8 processes "
            "(num_workers, procs_per_worker, gpus_per_worker), or some rank has nothing to do; try 8",
        ),
    ],
)
def test_a_wrong_setting_of_a_trainjob_is_named(override: str, said: str) -> None:
    assert problems(*CPU, override) == [said]


def test_an_authority_is_not_read_where_nobody_is_verified() -> None:
    assert problems(*CPU, "training.launcher.ca=ca.pem", "training.launcher.verify_tls=false") == [
        "training.launcher.ca=ca.pem: is not read with training.launcher.verify_tls=false; leave one of them out"
    ]


@pytest.mark.parametrize("rendezvous", ["host", "host:", ":29500", "host:0", "host:65536", "host:²", "a b:1", "a:b:1"])
def test_a_rendezvous_is_a_host_and_a_port(rendezvous: str) -> None:
    [problem] = problems("training.launcher.num_workers=2", f"training.launcher.rendezvous={rendezvous}")
    assert "must be host:port; try " in problem


@pytest.mark.parametrize("rendezvous", ["host:29500", "10.0.0.1:1", "[::1]:65535"])
def test_a_host_and_a_port_are_taken(rendezvous: str) -> None:
    cfg = compose(
        find_recipe("quickstart"), ["training.launcher.num_workers=2", f"training.launcher.rendezvous='{rendezvous}'"]
    )
    assert cfg.training.launcher.rendezvous == rendezvous


def test_a_trainjob_says_how_many_gpus_it_asks_for() -> None:
    assert problems(*CPU, "training.launcher.gpus_per_worker=null") == [
        "training.launcher.gpus_per_worker=null: must be said: a TrainJob asks for its GPUs; "
        "try 1, or 0 to train on CPUs"
    ]


def test_more_ranks_than_gpus_are_refused_before_nccl_does() -> None:
    assert problems("training/launcher=kubeflow") == [
        "training.launcher.procs_per_worker=2: must be at most the pod's 1 GPUs: NCCL refuses more; try 1, or null"
    ]


def test_a_trainjobs_setting_does_nothing_in_silence_on_this_machine() -> None:
    assert problems("training.launcher.memory=96Gi", "training.launcher.labels={a: b}") == [
        "training.launcher.memory=96Gi: is for a TrainJob, and this run trains here; choose "
        "training/launcher=kubeflow, or leave it out",
        "training.launcher.labels={'a': 'b'}: is for a TrainJob, and this run trains here; choose "
        "training/launcher=kubeflow, or leave it out",
    ]


def test_a_full_configuration_of_a_trainjob_composes() -> None:
    cfg = compose(
        find_recipe("quickstart"),
        [
            *CPU,
            "training.launcher.secrets={wandb-key: [WANDB_API_KEY]}",
            "training.launcher.labels={kueue.x-k8s.io/queue-name: team}",
            "training.launcher.tolerations=[{key: nvidia.com/gpu, operator: Exists}]",
            "training.launcher.image_pull_secrets=[pull]",
        ],
    )
    assert cfg.training.launcher.num_workers == 4
    assert cfg.training.launcher.secrets == {"wandb-key": ["WANDB_API_KEY"]}


def test_a_pod_asks_for_as_much_as_its_ranks_need_unless_the_recipe_says_more() -> None:
    def asked(*settings: str) -> tuple[str, str]:
        launcher = compose(find_recipe("quickstart"), ["training/launcher=kubeflow", *settings]).training.launcher
        return launcher.pod_cpu, launcher.pod_memory

    procs = "training.launcher.procs_per_worker=null"
    assert asked(procs) == ("4", "64Gi")
    assert asked(procs, "training.launcher.gpus_per_worker=8") == ("32", "512Gi")
    assert asked(procs, "training.launcher.cpu='6'", "training.launcher.memory=96Gi") == ("6", "96Gi")
