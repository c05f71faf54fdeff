"""The image's recipe and the manifests: what they promise can be read from them. No cluster, no build."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft.adapters.kubeflow.manifest import manifest
from sft.adapters.kubeflow.network_policy import network_policy
from sft.config.compose import compose, find_recipe
from sft.config.image import unpinned
from sft.stages.trainjob import check_volume
from tests.support.trainjobs import asked

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
CONTAINERFILE = (ROOT / "Containerfile").read_text(encoding="utf-8")


def built(overlay: str) -> list[dict[str, Any]]:
    """What kustomize makes of an overlay."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(DEPLOY / overlay)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(answer.stdout))


def manifests() -> list[dict[str, Any]]:
    files = sorted(DEPLOY.rglob("*.yaml"))
    assert len(files) >= 7
    return [found for file in files for found in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def of_kind(kind: str, among: list[dict[str, Any]]) -> dict[str, Any]:
    [found] = [manifest for manifest in among if manifest.get("kind") == kind]
    return found


def test_hadolint_has_nothing_to_say_of_the_containerfile() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.is_file():
        pytest.skip("hadolint is not installed")
    answer = subprocess.run([linter, str(ROOT / "Containerfile")], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, "")


def test_the_image_runs_without_root_under_any_id_in_group_0() -> None:
    final = CONTAINERFILE.rpartition("\nFROM ")[2]
    [user] = re.findall(r"^USER (.+)$", final, re.MULTILINE)
    assert user == "1001:0"
    assert "chmod g=u /workspace" in final
    assert "HOME=/workspace" in final


def test_the_root_file_system_may_be_read_only_but_for_two_named_places() -> None:
    final = CONTAINERFILE.rpartition("\nFROM ")[2]
    [places] = re.findall(r"^VOLUME (.+)$", final, re.MULTILINE)
    assert json.loads(places) == ["/workspace", "/tmp"]
    pod = of_kind("Job", manifests())["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {*json.loads(places), "/dev/shm"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_every_file_that_the_image_copies_is_let_into_the_build() -> None:
    let_in = set(re.findall(r"^!(\S+)$", (ROOT / ".containerignore").read_text(encoding="utf-8"), re.MULTILINE))
    lines = re.findall(r"^COPY (?!--from)(.+)$", CONTAINERFILE.replace("${LOCK}", "requirements.lock"), re.MULTILINE)
    copied = {name for line in lines for name in line.split()[:-1]}
    assert {"*.lock" if name.endswith(".lock") else name for name in copied} == let_in
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("overlay", ["base", "kubernetes"])
def test_an_overlay_is_a_run_as_a_job_on_the_volume(overlay: str) -> None:
    made = built(overlay)
    pod = of_kind("Job", made)["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["workspace"]["persistentVolumeClaim"]["claimName"] == "sft-workspace"
    assert volumes["recipe"]["configMap"]["name"] == of_kind("ConfigMap", made)["metadata"]["name"]
    assert pod["containers"][0]["image"] == "sft:0.1.0"
    assert ("fsGroup" in pod["securityContext"]) is (overlay == "kubernetes")


def test_the_jobs_recipe_composes_and_keeps_everything_on_the_volume() -> None:
    cfg = compose(find_recipe(str(DEPLOY / "base" / "recipe.yaml")), [])
    assert cfg.run_root == "/workspace/runs"


def test_a_run_that_trains_in_a_trainjob_may_use_the_api_and_asks_for_no_gpu_itself() -> None:
    made = built("trainjob")
    pod = of_kind("Job", made)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is True
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]
    [account] = [subject["name"] for subject in of_kind("RoleBinding", made)["subjects"]]
    assert pod["serviceAccountName"] == account


def test_the_trainjobs_recipe_keeps_all_that_its_pods_need_on_the_jobs_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = compose(find_recipe(str(DEPLOY / "trainjob" / "recipe.yaml")), [])
    monkeypatch.setenv("HF_HOME", "/workspace/.cache/huggingface")  # the image's HOME is /workspace
    check_volume(cfg)
    pod = of_kind("Job", manifests())["spec"]["template"]["spec"]
    mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    [claim] = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if v["name"] == "workspace"]
    assert (cfg.training.launcher.pvc, cfg.training.launcher.mount_path) == (claim, mounts["workspace"])


def test_the_job_gives_up_nothing_it_does_not_need() -> None:
    pod = of_kind("Job", manifests())["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_rights_name_their_verbs_and_resources() -> None:
    rules = of_kind("Role", manifests())["rules"]
    named = [name for rule in rules for key in ("apiGroups", "resources", "verbs") for name in rule[key]]
    assert "*" not in named
    assert "secrets" not in named


def policies(file: str) -> dict[str, dict[str, Any]]:
    found = yaml.safe_load_all((DEPLOY / file).read_text(encoding="utf-8"))
    return {policy["metadata"]["name"]: policy["spec"] for policy in found}


def labels_of_pods() -> dict[str, dict[str, str]]:
    """Of the run's own pod, and of a rank of its TrainJob."""
    run = of_kind("Job", manifests())["spec"]["template"]["metadata"]["labels"]
    job = manifest(asked(ROOT, "", run="r-1"))["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]
    [node] = job["template"]["spec"]["replicatedJobs"]
    return {"run": run, "ranks": node["template"]["spec"]["template"]["metadata"]["labels"]}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return bool(selector["matchLabels"].items() <= labels.items())


def test_every_pod_reaches_the_flows_that_it_has_by_name_and_no_other() -> None:
    reached: dict[str, set[str]] = {"run": set(), "ranks": set()}
    for name, spec in policies("egress/networkpolicy.yaml").items():
        assert spec["policyTypes"] == ["Egress"]
        for pod, labels in labels_of_pods().items():
            if selects(spec["podSelector"], labels):
                reached[pod].add(name.removeprefix("sft-egress-").removesuffix(f"-{pod}"))
    common = {"dns", "hub", "object-store"}
    assert reached == {"run": {*common, "api-server", "registry"}, "ranks": {*common, "among", "trainer"}}


def test_names_are_found_on_openshift_too() -> None:
    """A policy is applied to what the service's address stands for: there the DNS pods' own port."""
    for pod in ("run", "ranks"):
        [rule] = policies("egress/networkpolicy.yaml")[f"sft-egress-dns-{pod}"]["egress"]
        assert {(port["protocol"], port["port"]) for port in rule["ports"]} == {
            (protocol, port) for protocol in ("UDP", "TCP") for port in (53, 5353)
        }


def test_no_flow_of_the_internet_reaches_a_private_network() -> None:
    rules = [rule for spec in policies("egress/networkpolicy.yaml").values() for rule in spec["egress"]]
    blocks = [to["ipBlock"] for rule in rules for to in rule.get("to", []) if "ipBlock" in to]
    assert len(blocks) == 2
    for block in blocks:
        nets = [ip_network(net) for net in block["except"]]
        for address in ("10.96.0.1", "172.20.1.1", "192.168.1.1", "169.254.169.254"):
            assert any(ip_address(address) in net for net in nets), address


def test_isolated_replaces_the_policy_by_one_that_lets_nobody_in_but_a_runs_own() -> None:
    base, isolated = policies("base/networkpolicy.yaml"), policies("isolated/networkpolicy.yaml")
    assert list(isolated) == ["sft-ranks"]
    assert isolated["sft-ranks"]["podSelector"] == base["sft-ranks"]["podSelector"]
    assert "ingress" not in isolated["sft-ranks"]
    own = network_policy("n", "r-1")["spec"]
    labels = labels_of_pods()
    [rule] = own["ingress"]
    for selector in (own["podSelector"], rule["from"][0]["podSelector"]):
        assert selects(selector, labels["ranks"])
        assert not selects(selector, {**labels["ranks"], "sft/run": "r-2"})


def test_nothing_blocks_a_drain_for_a_drained_pod_goes_on_elsewhere() -> None:
    assert "PodDisruptionBudget" not in {found.get("kind") for found in manifests()}
    rules = of_kind("Job", manifests())["spec"]["podFailurePolicy"]["rules"]
    [rule] = [rule for rule in rules if "onPodConditions" in rule]
    assert (rule["action"], rule["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")


def test_an_overlay_may_add_what_is_reached_and_name_the_image_by_digest(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    [text] = re.findall(r"cat > kustomization\.yaml <<'END'\n(.*?)END\n", KUBERNETES, re.DOTALL)
    digest = f"sha256:{'0' * 64}"
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "mine").mkdir()
    shutil.copy(DEPLOY / "base" / "recipe.yaml", tmp_path / "mine")
    (tmp_path / "mine" / "kustomization.yaml").write_text(text.replace("sha256:…", digest), encoding="utf-8")
    command = ["kubectl", "kustomize", str(tmp_path / "mine")]
    made = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    pod = of_kind("Job", made)["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"registry.example/sft@{digest}"
    assert unpinned(pod["containers"][0]["image"]) is None
    assert "sft-egress-hub-run" in {found["metadata"]["name"] for found in made if found["kind"] == "NetworkPolicy"}


def test_manifests_name_secrets_and_hold_none() -> None:
    for found in manifests():
        if found.get("kind") == "Secret":
            assert set(found["stringData"].values()) == {""}
    env = of_kind("Job", manifests())["spec"]["template"]["spec"]["containers"][0]["env"]
    assert all("value" not in variable for variable in env)
