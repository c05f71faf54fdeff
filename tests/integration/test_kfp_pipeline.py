"""What the compiled pipeline says to Kubeflow. That it runs is `tests/e2e/test_pipeline.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kfp")
from sft.adapters.os.pod_secrets import second
from sft.config.compose import compose, find_recipe
from sft.config.kfp_parameters import PARAMETERS
from sft.errors import ConfigError
from sft.kfp import NAMESPACE
from sft.kfp.cluster import Cluster
from sft.kfp.pipeline import dataset, notes, pipeline_of, sft_pipeline, text_of
from sft.kfp.tasks import overrides_of
from tests.support.command import sft, sft_in_process

GOLDEN = Path(__file__).parents[1] / "config" / "golden" / "pipeline.yaml"
TASKS = ["dataset", "evaluation", "registry", "training"]


def compiled(recipe: str = "kfp-pod", **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's spec and what Kubernetes is told for each task."""
    spec, platform = yaml.safe_load_all(text_of(find_recipe(recipe), Cluster(**settings)))
    return spec, of_tasks(platform)


def of_tasks(platform: dict[str, Any]) -> dict[str, Any]:
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): facts for name, facts in executors.items()}


def defaults(spec: dict[str, Any]) -> dict[str, Any]:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    return {name: facts.get("defaultValue") for name, facts in parameters.items()}


def containers(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    executors = spec["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): facts["container"] for name, facts in executors.items()}


@pytest.mark.long
def test_the_pipeline_is_its_golden_file_byte_for_byte(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "sft.kfp.pipeline"], cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "pipeline.yaml").read_text(encoding="utf-8")
    written = sft_in_process("export", "kfp", "kfp", "--output", "again.yaml", cwd=tmp_path)
    assert (written.status, written.out) == (0, "again.yaml\n")
    assert text == (tmp_path / "again.yaml").read_text(encoding="utf-8")
    printed = sft("export", "kfp", "kfp", cwd=tmp_path)
    assert (printed.status, printed.out) == (0, text)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8"), "UPDATE_GOLDEN=1 accepts the change"


def test_the_first_task_takes_every_parameter_of_the_table() -> None:
    inputs = dataset.component_spec.inputs or {}
    assert [name for name in inputs if name.startswith("phase_")] == list(PARAMETERS)
    assert sft_pipeline.component_spec.inputs is not None
    assert list(sft_pipeline.component_spec.inputs) == list(PARAMETERS)


def test_defaults_are_the_originals_and_only_the_data_is_asked_for() -> None:
    found = defaults(compiled("kfp")[0])
    assert [name for name, value in found.items() if value is None] == ["phase_01_dataset_man_data_uri"]
    told = {
        "phase_01_dataset_man_data_split": 0.9,
        "phase_01_dataset_opt_subset": 0,
        "phase_02_train_man_batch": 128,
        "phase_02_train_man_tokens": 10000,
        "phase_02_train_man_workers": 4,
        "phase_02_train_man_gpu": 1,
        "phase_02_train_opt_cpu": "4",
        "phase_02_train_opt_memory": "64Gi",
        "phase_02_train_opt_labels": "",
        "phase_02_train_opt_runtime": "torch-distributed",
        "phase_02_train_opt_num_procs": "auto",
        "phase_02_train_opt_env_vars": "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True,NCCL_DEBUG=INFO,"
        "INSTRUCTLAB_NCCL_TIMEOUT_MS=600000",
        "phase_03_eval_man_tasks": ["arc_easy"],
        "phase_03_eval_opt_limit": -1,
        "phase_04_registry_opt_port": 8080,
    }
    assert {name: found[name] for name in told} == told


def test_a_recipes_values_are_the_defaults_of_its_pipeline() -> None:
    found = defaults(compiled("quickstart")[0])
    assert found["phase_01_dataset_man_data_uri"].startswith("synthetic://")
    assert found["phase_02_train_man_epochs"] == 4
    assert found["phase_02_train_man_gpu"] == -1


def test_a_recipe_of_ones_own_goes_along_as_text(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("# Mine.\ndefaults: [config, _self_]\ndataset: {uri: s3://bucket/rows.jsonl}\n")
    spec, _ = compiled(str(mine))
    given = spec["root"]["dag"]["tasks"]["training"]["inputs"]["parameters"]["recipe"]["runtimeValue"]["constant"]
    assert given == f"mine:\n{mine.read_text()}"


@pytest.mark.long
def test_a_recipe_with_several_keys_in_a_mapping_compiles_to_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    settings = "{temperature: 0.5, top_p: 0.9, max_gen_toks: 12, do_sample: true, repetition_penalty: 1.1}"
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"# Mine.\ndefaults: [config, _self_]\neval: {{gen_kwargs: {settings}}}\n")
    texts = set()
    for seed in ("1", "2"):  # sets of texts have another order with each
        answer = sft("export", "kfp", "mine.yaml", cwd=tmp_path, PYTHONHASHSEED=seed)
        assert answer.status == 0
        texts.add(answer.out)
    assert len(texts) == 1


def test_a_recipe_with_a_secret_in_its_text_is_not_compiled(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("# hf_canarycanarycanarycanary\ndefaults: [config, _self_]\n")
    with pytest.raises(ConfigError, match="its text goes into the pipeline"):
        compiled(str(mine))


def test_a_recipe_that_is_a_sweep_is_not_compiled() -> None:
    with pytest.raises(
        ConfigError, match=r"is a sweep over training\.fsdp\.sharding_strategy, and a pipeline is one run"
    ):
        pipeline_of(find_recipe("quickstart_fsdp_sweep"), Cluster())


def test_a_recipe_that_needs_files_beside_it_is_not_compiled(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("# Mine.\ndefaults: [config, _self_]\ndataset: {uri: '${recipe_dir:}/rows.jsonl'}\n")
    with pytest.raises(ConfigError, match=r"refers to files beside it \(\$\{recipe_dir:\}\)"):
        compiled(str(mine))


def test_files_of_this_machine_that_no_pod_would_find_are_refused_at_once(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    text = (
        "# Mine.\ndefaults: [config, _self_]\ndataset: {uri: rows.jsonl}\neval:\n  include_path: tasks\n  holdouts:\n"
    )
    mine.write_text(
        f"{text}    near: {{uri: near.jsonl}}\n    far: {{uri: 's3://b/x'}}\n    there: {{uri: /data/x.jsonl}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        pipeline_of(find_recipe(str(mine)), Cluster())
    assert [problem.key for problem in caught.value.problems] == ["eval.include_path", "eval.holdouts.near.uri"]


def test_what_is_settled_at_compile_time_is_on_volume_and_tasks() -> None:
    settings = {"gpus": 2, "node_selector": {"gpu": "h200"}, "caching": True, "image": "quay.io/us/sft:1"}
    cluster = Cluster(storage_class="fast", workspace_size="1Ti", **settings)
    spec, platform = yaml.safe_load_all(text_of(find_recipe("kfp-pod"), cluster))
    tasks = of_tasks(platform)
    workspace = platform["platforms"]["kubernetes"]["pipelineConfig"]["workspace"]
    patch = {"accessModes": ["ReadWriteMany"], "storageClassName": "fast"}
    assert workspace == {"size": "1Ti", "kubernetes": {"pvcSpecPatch": patch}}
    assert {facts["image"] for facts in containers(spec).values()} == {"quay.io/us/sft:1"}
    counts = {name: facts.get("resources", {}).get("accelerator") for name, facts in containers(spec).items()}
    assert [name for name, accelerator in counts.items() if accelerator] == ["evaluation", "training"]
    assert [name for name in TASKS if "nodeSelector" in tasks[name]] == ["evaluation", "training"]
    assert all(task["cachingOptions"]["enableCache"] for task in spec["root"]["dag"]["tasks"].values())


def test_secrets_are_named_never_held_and_may_be_absent() -> None:
    _, tasks = compiled(minio_secret="s3-secret", oci_secret="pull", registry_secret="login")
    for name in TASKS:
        found = {secret["secretName"]: secret["optional"] for secret in tasks[name]["secretAsEnv"]}
        assert found == {"s3-secret": True, "hf-token": True, "pull": True, "login": True}


@pytest.mark.parametrize("recipe", ["kfp", "kfp-pod"])
def test_each_secret_has_both_spellings_and_no_container_a_variable_twice(recipe: str) -> None:
    _, tasks = compiled(recipe)
    for name in TASKS:
        pairs = [pair for secret in tasks[name]["secretAsEnv"] for pair in secret["keyToEnv"]]
        variables = [pair["envVar"] for pair in pairs]
        assert len(variables) == len(set(variables))
        named = {secret["secretName"] for secret in tasks[name]["secretAsEnv"]}
        assert {"minio-secret", "s3-secret", "oci-pull-secret-model-download"} <= named


def test_with_a_trainjob_the_training_task_has_the_clusters_credentials_and_no_gpu() -> None:
    spec, tasks = compiled("kfp", kubernetes_secret="trainer")
    secrets = {name: {s["secretName"]: s["optional"] for s in tasks[name]["secretAsEnv"]} for name in TASKS}
    assert secrets["training"] == {**secrets["dataset"], "trainer": True}
    assert [name for name in TASKS if "trainer" in secrets[name]] == ["training"]
    variables = {pair["envVar"]: pair["secretKey"] for pair in tasks["training"]["secretAsEnv"][-1]["keyToEnv"]}
    assert variables == {
        "KUBERNETES_SERVER_URL": "server_url",
        "KUBERNETES_AUTH_TOKEN": "auth_token",
        second("KUBERNETES_SERVER_URL"): "KUBERNETES_SERVER_URL",
        second("KUBERNETES_AUTH_TOKEN"): "KUBERNETES_AUTH_TOKEN",
    }
    gpus = [name for name, facts in containers(spec).items() if "accelerator" in facts.get("resources", {})]
    assert gpus == ["evaluation"]


def test_with_a_trainjob_the_tasks_share_the_volume_of_its_pods() -> None:
    spec, tasks = compiled("kfp")
    for name in TASKS:
        [mount] = tasks[name]["pvcMount"]
        assert (mount["constant"], mount["mountPath"]) == ("sft-workspace", "/workspace")
        given = spec["root"]["dag"]["tasks"][name]["inputs"]["parameters"]["workspace"]
        assert given == {"runtimeValue": {"constant": "/workspace"}}
    assert "pipelineConfig" not in text_of(find_recipe("kfp"), Cluster())


def resources(spec: dict[str, Any], name: str) -> dict[str, str]:
    """What a task asks for and gets at most: field of the pod -> quantity."""
    found = containers(spec)[name]["resources"]
    fields = {"cpu": "CpuRequest", "memory": "MemoryRequest", "limit": "MemoryLimit"}
    return {ours: found[f"resource{theirs}"] for ours, theirs in fields.items() if f"resource{theirs}" in found}


@pytest.mark.long
def test_every_task_asks_for_cores_and_memory_and_one_that_waits_for_few() -> None:
    asked = {name: resources(compiled()[0], name) for name in TASKS}
    assert asked["training"] == {"cpu": "4", "memory": "16Gi"}
    assert asked["registry"] == {"cpu": "1", "memory": "4Gi"}
    assert resources(compiled("kfp")[0], "training") == {"cpu": "1", "memory": "4Gi"}


def test_options_of_a_task_are_its_own_and_the_others_are_every_tasks(tmp_path: Path) -> None:
    typed = ["--cpu", "training=8", "--cpu", "500m", "--memory", "8Gi", "--memory-limit", "training=96Gi"]
    typed += ["--timeout", "3600", "--timeout", "training=86400", "--retries", "5"]
    typed += ["--toleration", "nvidia.com/gpu:NoSchedule", "--toleration", "team=a"]
    typed += ["--image-pull-secret", "one", "--image-pull-secret", "two", "--label", "team=a"]
    answer = sft_in_process("export", "kfp", "kfp-pod", *typed, cwd=tmp_path)
    assert answer.status == 0, answer.err
    spec, platform = yaml.safe_load_all(answer.out)
    tasks = of_tasks(platform)
    assert resources(spec, "training") == {"cpu": "8", "memory": "8Gi", "limit": "96Gi"}
    assert resources(spec, "dataset") == {"cpu": "500m", "memory": "8Gi"}
    assert {name: tasks[name]["activeDeadlineSeconds"] for name in TASKS} == {
        **dict.fromkeys(TASKS, "3600"),
        "training": "86400",
    }
    retries = {name: task["retryPolicy"]["maxRetryCount"] for name, task in spec["root"]["dag"]["tasks"].items()}
    assert retries == dict.fromkeys(TASKS, 5)
    for name in TASKS:
        assert [secret["secretName"] for secret in tasks[name]["imagePullSecret"]] == ["one", "two"]
        assert tasks[name]["podMetadata"]["labels"] == {"team": "a"}
    taints = [
        {"effect": "NoSchedule", "key": "nvidia.com/gpu", "operator": "Exists"},
        {"key": "team", "operator": "Equal", "value": "a"},
    ]
    assert {name: tasks[name].get("tolerations") for name in TASKS} == {
        **dict.fromkeys(TASKS),
        "training": taints,
        "evaluation": taints,
    }


def test_what_trains_or_scores_has_shared_memory_with_and_without_gpus() -> None:
    for gpus in (0, 1):
        _, tasks = compiled(gpus=gpus)
        mounts = {name: [mount["mountPath"] for mount in tasks[name].get("emptyDirMounts", [])] for name in TASKS}
        assert mounts == {"dataset": [], "registry": [], "training": ["/dev/shm"], "evaluation": ["/dev/shm"]}


def test_the_registrys_task_is_told_the_run_in_pipelines_and_its_namespace() -> None:
    spec, tasks = compiled()
    given = spec["root"]["dag"]["tasks"]["registry"]["inputs"]["parameters"]
    told = {name: given[name]["runtimeValue"]["constant"] for name in ("run_id", "run_name")}
    assert told == {"run_id": "{{$.pipeline_job_uuid}}", "run_name": "{{$.pipeline_job_name}}"}
    assert tasks["registry"]["fieldPathAsEnv"] == [{"fieldPath": "metadata.namespace", "name": NAMESPACE}]


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "arguments", "said"),
    [
        ("quickstart", [], ["registration goes with the workspace", "is named by a tag"]),
        ("kfp-pod", [], ["is named by a tag"]),
        ("kfp-pod", ["--image", f"host:5000/sft@sha256:{'0' * 64}"], []),
    ],
)
def test_what_would_be_lost_or_may_change_is_told_beside_the_pipeline(
    recipe: str, arguments: list[str], said: list[str], tmp_path: Path
) -> None:
    answer = sft_in_process("export", "kfp", recipe, *arguments, cwd=tmp_path)
    assert answer.status == 0
    notes = [line for line in answer.err.splitlines() if line.startswith("note: ")]
    assert len(notes) == len(said)
    assert all(text in note for text, note in zip(said, notes, strict=True))


def test_no_task_installs_anything_or_carries_an_implementation() -> None:
    for container in containers(compiled()[0]).values():
        assert "pip" not in " ".join(container["command"])
        assert "from sft.kfp import tasks" in container["command"][-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch"], "nosuch: no such recipe"),
        (["kfp", "--node-selector", "gpu"], "--node-selector=gpu: must be LABEL=VALUE"),
        (["kfp", "--access-mode", "Many"], "invalid choice: 'Many'"),
        (["kfp", "--cpu", "train=1"], "--cpu=train=1: names no task: they are dataset, training, evaluation, registry"),
        (["kfp", "--memory", "much"], "--memory=much: is no amount"),
        (["kfp", "--timeout", "0"], "--timeout=0: must be a number of seconds"),
        (["kfp", "--toleration", "a=b:Never"], "--toleration=a=b:Never: must be KEY, KEY=VALUE"),
        (["kfp", "--retries", "-1"], "--retries=-1: must be from 0 to 100"),
        (["kfp", "--gpus", "-1"], "--gpus=-1: must not be negative"),
    ],
)
def test_a_wrong_export_is_refused_and_writes_nothing(arguments: list[str], said: str, tmp_path: Path) -> None:
    answer = sft_in_process("export", "kfp", *arguments, cwd=tmp_path)
    assert answer.status == 2
    assert said in answer.err
    assert list(tmp_path.iterdir()) == []


CLUSTER = """# Mine.
defaults: [config, {override /training/launcher: kubeflow}, _self_]
run_root: /workspace/runs
dataset: {uri: hf://org/data}
model: {name_or_path: org/model}
training:
  launcher: {gpus_per_worker: 1, image: quay.io/us/sft:1, image_pull_secrets: [quay]}
"""


def test_tasks_have_the_image_of_the_recipes_trainjob_and_its_secret(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(CLUSTER, encoding="utf-8")
    spec, tasks = compiled(str(mine))
    assert {facts["image"] for facts in containers(spec).values()} == {"quay.io/us/sft:1"}
    assert {task["imagePullSecret"][0]["secretName"] for task in tasks.values()} == {"quay"}
    found = [*notes(find_recipe(str(mine)), Cluster(image="quay.io/us/sft:2"))]
    assert found[0] == "the TrainJob's pods have training.launcher.image=quay.io/us/sft:1, not the image of the tasks"


def test_options_that_a_pipeline_does_not_read_are_said() -> None:
    cluster = Cluster(workspace_size="1Ti", access_modes=("ReadWriteOnce",), storage_class="x", kubernetes_secret="y")
    told = {note.partition(":")[0] for note in notes(find_recipe("kfp"), cluster)}
    assert {"--workspace-size", "--access-mode", "--storage-class"} <= told
    told = {note.partition(":")[0] for note in notes(find_recipe("kfp-pod"), cluster)}
    assert [flag for flag in told if flag.startswith("--")] == ["--kubernetes-secret"]


def test_a_group_of_ones_own_does_not_go_along_unseen(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "own.yaml").write_text("uri: hf://org/mine\n", encoding="utf-8")
    mine = tmp_path / "mine.yaml"
    mine.write_text("# Mine.\ndefaults: [config, {override /dataset: own}, _self_]\nmodel: {name_or_path: a/b}\n")
    with pytest.raises(ConfigError, match="needs files beside it"):
        compiled(str(mine))


def test_an_adapter_a_certificate_and_a_key_of_this_machine_are_refused_too(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    text = CLUSTER.replace("gpus_per_worker", "ca: ca.pem, gpus_per_worker").replace(
        "org/model", "org/model, adapter: a/b"
    )
    mine.write_text(f"{text}registry: {{sign: key.pem}}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        pipeline_of(find_recipe(str(mine)), Cluster())
    keys = ["model.adapter", "training.launcher.ca", "registry.sign"]
    assert [problem.key for problem in caught.value.problems] == keys
    mine.write_text(f"{CLUSTER}registry: {{sign: sigstore}}\n", encoding="utf-8")
    assert compiled(str(mine))


def test_mappings_with_commas_and_quotes_reach_the_run_as_the_recipe_has_them(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    networks = {"k8s.v1.cni.cncf.io/networks": "rdma-1,rdma-2", "note": '[{"name": "a=b"}]', "q": '"it\'s"', "e": "a\\"}
    text = json.dumps({"annotations": networks, "gpus_per_worker": 1})
    mine.write_text(
        CLUSTER.partition("training:")[0]
        + f"training:\n  env: {{NCCL_SOCKET_IFNAME: 'eth0,eth1'}}\n  launcher: {text}\n"
    )
    spec, _ = compiled(str(mine))
    cfg = compose(find_recipe(str(mine)), [])
    ours = {name: value for name, value in defaults(spec).items() if name in PARAMETERS and PARAMETERS[name].is_pairs}
    read = compose(find_recipe(str(mine)), overrides_of(ours, "/workspace")).training
    assert (read.launcher.annotations, read.env) == (networks, cfg.training.env)
