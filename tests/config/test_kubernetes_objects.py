"""Every Kubernetes object that we ship or print, held to Kubernetes' API: `tests.support.kubernetes_models`.

TrainJobs are held to their own CRD (`tests/unit/adapters/kubeflow/test_manifest.py`).
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kubernetes")
from sft.adapters.kubeflow.network_policy import network_policy
from sft.config.compose import find_recipe
from sft.runner import Pod, export_job
from sft.runner.export_kserve import Serving
from sft.runner.export_kserve import manifests as kserve
from tests.support.kubernetes_models import problems

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*.yaml") if path.name not in {"kustomization.yaml", "recipe.yaml"})


def of_file(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_a_manifest_has_only_what_kubernetes_knows(path: Path) -> None:
    objects = of_file(path)
    assert objects
    assert [problem for found in objects for problem in problems(found)] == []


@pytest.mark.parametrize("recipe", ["base", "trainjob"])
@pytest.mark.parametrize("pod", [Pod(image="sft:1"), Pod(image="sft:1", fs_group=0, gpus=0, memory_limit="8Gi")])
def test_an_exported_job_has_only_what_kubernetes_knows(recipe: str, pod: Pod) -> None:
    objects = export_job(find_recipe(str(DEPLOY / recipe / "recipe.yaml")), ["run_root=/workspace/runs"], pod)
    assert {found["kind"] for found in objects} >= {"ConfigMap", "Job"}
    assert [problem for found in objects for problem in problems(found)] == []


def test_policies_and_accounts_that_are_made_have_only_what_kubernetes_knows() -> None:
    assert problems(network_policy("n", "r-1", "team")) == []
    [account, _] = kserve("m", "s3://bucket/m", Serving(secret="login", namespace="team"), annotations={})
    assert problems(account) == []


def test_what_kubernetes_does_not_know_is_found() -> None:
    [job] = of_file(DEPLOY / "base" / "job.yaml")
    changed = deepcopy(job)
    pod = changed["spec"]["template"]["spec"]
    pod["containers"][0]["resource"] = {}
    pod["containers"][0]["env"][0].pop("name")
    pod["terminationGracePeriodSeconds"] = "600"
    pod["automountServiceAccountToken"] = "false"
    changed["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] = 2
    assert sorted(problems(changed)) == [
        "spec.podFailurePolicy.rules[0].onExitCodes.values: is no list",
        "spec.template.spec.automountServiceAccountToken: 'false' is no bool",
        "spec.template.spec.containers[0].env[0]: name is required",
        "spec.template.spec.containers[0].resource: unknown field",
        "spec.template.spec.terminationGracePeriodSeconds: '600' is no int",
    ]
