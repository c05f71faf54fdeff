"""The TrainJob that a run asks for: its golden file, the published CRD, and Kubeflow's own models."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft.adapters.kubeflow.manifest import TrainJob, check, manifest
from sft.errors import SftError
from tests.servers.kubernetes.contract import Contract, webhook
from tests.servers.kubernetes.pods import expanded
from tests.support.cluster import contracts

GOLDEN = Path(__file__).parents[3] / "config" / "golden" / "trainjob.yaml"
FULL = TrainJob(
    run="support-1a2b3c4d",
    key="0123456789abcdef0123",
    namespace="sft",
    runtime="torch-distributed",
    image="registry.example/sft:0.1.0",
    command=(
        "python",
        "-m",
        "sft.adapters.instructlab.pod_entrypoint",
        "/workspace/runs/store/.staging/train-0123/logs",
    ),
    num_nodes=4,
    procs_per_node=2,
    cpu="500m",
    memory="64Gi",
    gpus=2,
    pvc="sft-workspace",
    mount_path="/workspace",
    folder="/workspace/runs/store/.staging/train-0123/logs",
    env={"NCCL_DEBUG": "INFO", "PROMPT": "$(HOME) costs $5"},
    secrets={"wandb": ("WANDB_API_KEY",)},
    labels={"kueue.x-k8s.io/queue-name": "team"},
    annotations={"sidecar.istio.io/inject": "false"},
    node_selector={"gpu": "h200"},
    tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
    service_account="trainer",
    image_pull_secrets=("pull",),
    fs_group=1001,
    resources={"rdma/hca": "1", "ephemeral-storage": "20Gi"},
    limits={"cpu": "none", "memory": "96Gi"},
    capabilities=("IPC_LOCK",),
    affinity={
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"sft/run": "r"}}}
            ]
        }
    },
    suspend=True,
    deadline_seconds=86400,
)
LEAST = TrainJob(
    run="r",
    key="0123456789abcdef0123",
    namespace=None,
    runtime="torch-distributed",
    image="sft:0.1.0",
    command=("python",),
    num_nodes=1,
    procs_per_node=1,
    cpu="1",
    memory="1Gi",
    gpus=0,
    pvc="sft-workspace",
    mount_path="/workspace",
    folder="/workspace/logs",
)


def test_a_full_job_is_its_golden_file() -> None:
    text = yaml.safe_dump(manifest(FULL), sort_keys=False)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "UPDATE_GOLDEN=1 accepts the change"


@pytest.mark.parametrize("job", [FULL, LEAST], ids=["full", "least"])
def test_the_cluster_takes_it_by_the_crd_and_by_the_webhooks_rules(job: TrainJob) -> None:
    crd = Contract(contracts() / "trainjobs.crd.yaml")
    runtime = yaml.safe_load((contracts() / "torch-distributed.runtime.yaml").read_text(encoding="utf-8"))
    made = manifest(job)
    assert crd.unknown_fields(made) == []
    assert crd.errors(made) == []
    assert webhook(made, {"torch-distributed": runtime}) == []


@pytest.mark.parametrize("job", [FULL, LEAST], ids=["full", "least"])
def test_kubeflows_models_read_it_as_it_is(job: TrainJob) -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models")
    made = manifest(job)
    check(made)
    assert models.TrainerV1alpha1TrainJob.from_dict(made).to_dict() == made


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda made: made["metadata"].update(name="3sft"), "RFC 1035"),
        (lambda made: made["metadata"].update(name="s" * 64), "no more than 63"),
        (lambda made: made["spec"]["trainer"].update(numProcPerNode=0), "1"),
        (lambda made: made["spec"]["trainer"]["resourcesPerNode"]["requests"].update(cpu=0.5), "0.5"),
    ],
)
def test_the_stand_ins_contract_refuses_what_a_cluster_refuses(break_it: Any, said: str) -> None:
    made = manifest(FULL)
    break_it(made)
    assert said in " ".join(Contract(contracts() / "trainjobs.crd.yaml").errors(made))


def test_a_field_that_the_crd_does_not_know_is_found_wherever_it_is() -> None:
    made = manifest(FULL)
    made["spec"]["trainer"]["gpus"] = 2
    [container] = made["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0][
        "template"
    ]["spec"]["template"]["spec"]["containers"]
    container["resources"] = {}
    found = Contract(contracts() / "trainjobs.crd.yaml").unknown_fields(made)
    assert [field.rpartition(".")[2] for field in found] == ["gpus", "resources"]


def test_kubeflows_models_refuse_a_number_where_a_name_belongs() -> None:
    pytest.importorskip("kubeflow_trainer_api")
    made = manifest(FULL)
    made["spec"]["runtimeRef"]["name"] = 7
    with pytest.raises(SftError, match=r"does not fit Kubeflow's models: .*str"):
        check(made)


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("quickstart-1a2b3c4d", "sft-quickstart-1a2b3c4d"),
        ("Ünder_Score.42-1a2b3c4d", "sft-nder-score-42-1a2b3c4d"),
        ("x" * 200, f"sft-{'x' * 30}"),
        ("日本", "sft"),
    ],
)
def test_a_name_is_a_host_name_with_room_for_its_pods(run: str, name: str) -> None:
    made = replace(LEAST, run=run).name
    assert re.fullmatch(f"{name}-[0-9a-f]{{10}}", made)
    assert len(f"{made}-node-0-9999-abcde") <= 63


def test_the_stand_in_refuses_a_name_that_leaves_no_room_for_a_pods() -> None:
    runtime = yaml.safe_load((contracts() / "torch-distributed.runtime.yaml").read_text(encoding="utf-8"))
    made = manifest(FULL)
    made["metadata"]["name"] = "s" * 50
    assert "pod names" in " ".join(webhook(made, {"torch-distributed": runtime}))


def test_the_root_file_system_is_read_only_but_for_the_volume_and_two_named_places() -> None:
    job = replace(LEAST, mount_path="/data")
    spec = manifest(job)["spec"]
    [node] = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/dev/shm", "/tmp"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert {"name": "HOME", "value": "/data"} in spec["trainer"]["env"]
    env = manifest(replace(job, env={"HOME": "/elsewhere"}))["spec"]["trainer"]["env"]
    assert env == [{"name": "HOME", "value": "/elsewhere"}]


def test_values_of_secrets_are_nowhere_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-wandb-key")
    made = manifest(FULL)
    assert "canary" not in yaml.safe_dump(made)
    [variable] = [e for e in made["spec"]["trainer"]["env"] if e["name"] == "WANDB_API_KEY"]
    assert variable == {
        "name": "WANDB_API_KEY",
        "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "WANDB_API_KEY"}},
    }


def test_text_with_a_dollar_reaches_the_pod_as_it_is() -> None:
    [variable] = [e for e in manifest(FULL)["spec"]["trainer"]["env"] if e["name"] == "PROMPT"]
    assert expanded(variable["value"], {"HOME": "/root"}) == "$(HOME) costs $5"


def test_a_runs_own_labels_win_over_a_persons() -> None:
    made = manifest(replace(LEAST, labels={"sft/key": "other"}))
    assert made["metadata"]["labels"]["sft/key"] == LEAST.key
