"""`sft export job`: one Job for one recipe, as the manifests have it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft.adapters.kubeflow.manifest import label_value
from sft.config.compose import compose, find_recipe
from sft.errors import ConfigError
from sft.runner import Pod, export_job, run_folder
from tests.support.command import sft_in_process

ROOT = Path(__file__).parents[2]
TINY = """# Mine.
defaults:
  - config
  - override /dataset: synthetic
  - override /model: scratch
  - override /registry: none
  - _self_

name: My Run_2
run_root: /workspace/runs
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def exported(recipe: Path, *overrides: str, **pod: Any) -> list[dict[str, Any]]:
    return export_job(find_recipe(str(recipe)), overrides, Pod(**pod))


def refused(recipe: Path, *overrides: str, **pod: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        exported(recipe, *overrides, **pod)
    return str(caught.value)


def test_it_is_the_job_of_the_manifests_but_for_its_name(mine: Path) -> None:
    """One truth: `deploy/base/job.yaml` and what is exported can't drift apart."""
    expected = yaml.safe_load((ROOT / "deploy/base/job.yaml").read_text(encoding="utf-8"))
    config_map, job = exported(mine.rename(mine.with_name("recipe.yaml")), fs_group=0, image="sft")
    name = job["metadata"]["name"]
    assert config_map["metadata"]["name"] == name
    pods = [manifest["spec"]["template"]["spec"] for manifest in (expected, job)]
    for pod in pods:
        pod["volumes"].sort(key=lambda volume: volume["name"])
        pod["containers"][0]["volumeMounts"].sort(key=lambda mount: mount["name"])
    expected["metadata"]["name"] = name
    pods[0]["volumes"][0]["configMap"]["name"] = name
    assert job == expected


def test_the_pod_has_the_recipe_and_the_overrides(mine: Path) -> None:
    config_map, job = exported(mine, "training.num_epochs=3")
    assert config_map["data"] == {"mine.yaml": TINY}
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == [
        *("run", "/etc/sft/mine.yaml", "training.num_epochs=3")
    ]


def test_another_recipe_override_or_image_is_another_job_and_the_same_is_the_same(mine: Path) -> None:
    def name(*overrides: str, **pod: Any) -> str:
        return str(exported(mine, *overrides, **pod)[-1]["metadata"]["name"])

    first = name()
    assert first == name()
    assert re.fullmatch(r"sft-my-run-2-[0-9a-f]{8}", first)
    others = {name("training.num_epochs=3"), name(image="sft:2"), name(cpu="8")}
    mine.write_text(TINY + "training:\n  num_epochs: 5\n", encoding="utf-8")
    assert len({first, *others, name()}) == 5


@pytest.mark.parametrize("run", ["x" * 200, "ünï", "--", "A.b/c"])
def test_a_name_is_one_that_kubernetes_takes(run: str, mine: Path) -> None:
    mine.write_text(TINY.replace("My Run_2", f"'{run.replace('/', '-')}'"), encoding="utf-8")
    [*_, job] = exported(mine)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", job["metadata"]["name"])


def test_a_recipe_of_the_image_needs_no_config_map() -> None:
    [job] = export_job(find_recipe("quickstart"), ["run_root=/workspace/runs"], Pod(gpus=0))
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["run", "quickstart", "run_root=/workspace/runs"]
    assert container["resources"]["limits"] == {"memory": "64Gi"}


def test_a_run_that_trains_in_a_trainjob_has_the_apis_token_and_no_gpu(mine: Path) -> None:
    launcher = ["training/launcher=kubeflow", "training.launcher.image=sft:1"]
    pod = exported(mine, *launcher)[-1]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is True
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]


def test_its_image_volume_and_group_are_those_of_the_trainjob_too(mine: Path) -> None:
    """One `--image` leads to a model: nothing is to be edited in the recipe."""
    [*_, job] = exported(mine, "training/launcher=kubeflow", image="quay.io/us/sft:1", claim="ours")
    pod = job["spec"]["template"]["spec"]
    [_, named, *overrides] = pod["containers"][0]["args"]
    assert named == "/etc/sft/mine.yaml"
    launcher = compose(find_recipe(str(mine)), overrides).training.launcher
    assert (launcher.image, launcher.pvc, launcher.fs_group) == ("quay.io/us/sft:1", "ours", 1001)
    assert pod["containers"][0]["image"] == launcher.image


def test_the_pods_of_its_trainjob_reach_each_other_by_a_policy_of_the_run(mine: Path) -> None:
    _, policy, job = exported(mine, "training/launcher=kubeflow", image="quay.io/us/sft:1")
    [_, _, *overrides] = job["spec"]["template"]["spec"]["containers"][0]["args"]
    run = run_folder(compose(find_recipe(str(mine)), overrides)).name
    assert policy["metadata"]["name"] == job["metadata"]["name"]
    assert policy["spec"]["podSelector"] == {"matchLabels": {"sft/run": label_value(run)}}


def test_what_the_recipe_says_of_its_trainjob_is_the_jobs_too(mine: Path) -> None:
    launcher = ["image=quay.io/us/sft:2", "pvc=theirs", "fs_group=7"]
    overrides = ["training/launcher=kubeflow", *(f"training.launcher.{setting}" for setting in launcher)]
    pod = exported(mine, *overrides)[-1]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "quay.io/us/sft:2"
    assert pod["containers"][0]["args"] == ["run", "/etc/sft/mine.yaml", *overrides]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "theirs"
    assert pod["securityContext"]["fsGroup"] == 7


def test_on_openshift_neither_its_pod_nor_those_of_its_trainjob_have_a_group() -> None:
    """There a group of one's own is refused, and the shipped recipe has one."""
    [*_, job] = exported(ROOT / "deploy" / "trainjob" / "recipe.yaml", image="sft:2", fs_group=0)
    pod = job["spec"]["template"]["spec"]
    assert "fsGroup" not in pod["securityContext"]
    [_, _, *overrides] = pod["containers"][0]["args"]
    recipe = find_recipe(str(ROOT / "deploy" / "trainjob" / "recipe.yaml"))
    assert compose(recipe, overrides).training.launcher.fs_group is None


@pytest.mark.parametrize(
    ("overrides", "pod", "rule"),
    [
        (["run_root=runs"], {}, "run_root=runs: is not on the Job's volume"),
        (["run_root=/workspace/../tmp"], {}, "is not on the Job's volume"),
        (
            ["training.launcher.num_workers=2", "training.launcher.rendezvous=host:1", "training.launcher.node_rank=0"],
            {},
            "a Job is one machine",
        ),
        ([], {"memory": "much"}, "--memory=much: is no amount"),
        ([], {"gpus": -1}, "--gpus=-1: must not be negative"),
    ],
)
def test_what_a_job_can_not_do_is_refused(overrides: list[str], pod: dict[str, Any], rule: str, mine: Path) -> None:
    assert rule in refused(mine, *overrides, **pod)


def test_a_recipe_that_needs_files_beside_it_is_refused(mine: Path, tmp_path: Path) -> None:
    mine.write_text(TINY + "eval:\n  include_path: ${recipe_dir:}/tasks\n", encoding="utf-8")
    assert compose(find_recipe(str(mine)), [])
    assert "mine.yaml: needs files beside it" in refused(mine)
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "own.yaml").write_text("uri: synthetic://spell-numbers?rows=9&seed=1\n", encoding="utf-8")
    mine.write_text(TINY.replace("/dataset: synthetic", "/dataset: own"), encoding="utf-8")
    assert compose(find_recipe(str(mine)), [])
    assert "needs files beside it" in refused(mine)


def test_the_command_prints_or_writes_it(mine: Path, tmp_path: Path) -> None:
    printed = sft_in_process("export", "job", "mine.yaml", "--fs-group", "0", "--gpus", "2", cwd=tmp_path)
    assert printed.status == 0, printed.err
    config_map, job = yaml.safe_load_all(printed.out)
    assert config_map["data"]["mine.yaml"] == TINY
    assert "fsGroup" not in job["spec"]["template"]["spec"]["securityContext"]
    written = sft_in_process(
        *["export", "job", "mine.yaml", "--fs-group", "0", "--gpus", "2", "--output", "job.yaml"], cwd=tmp_path
    )
    assert (written.status, written.out) == (0, "job.yaml\n")
    assert (tmp_path / "job.yaml").read_text(encoding="utf-8") == printed.out


def test_a_sweep_is_no_job(tmp_path: Path) -> None:
    answer = sft_in_process("export", "job", "quickstart_fsdp_sweep", "run_root=/workspace/runs", cwd=tmp_path)
    assert answer.status == 2
    assert "Traceback" not in answer.err


def test_a_job_with_a_trainjob_has_its_namespace_and_the_secret_of_its_image(mine: Path) -> None:
    launcher = ["gpus_per_worker=1", "namespace=ml", "image_pull_secrets=[quay]"]
    made = exported(mine, "training/launcher=kubeflow", *(f"training.launcher.{each}" for each in launcher))
    assert {manifest["metadata"]["namespace"] for manifest in made} == {"ml"}
    assert made[-1]["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "quay"}]
    assert "namespace" not in exported(mine)[-1]["metadata"]
