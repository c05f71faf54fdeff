"""A cluster to train on: a stand-in, or a real one if ``SFT_TEST_KUBECONFIG`` names its kubeconfig.

The stand-in (`tests.servers.kubernetes`) starts a TrainJob's pods as processes of this machine and checks every object
against the official contract. `site` yields either kind as a `Site`, and the same tests run on both.

A real one also needs ``SFT_TEST_IMAGE`` (with this sft in it) and ``SFT_TEST_VOLUME`` as ``CLAIM:PATH``: a claim in the
context's namespace, and where that volume is mounted here and in the pods.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers.kubernetes import KubernetesServer

ROLE = Path(__file__).parents[2] / "deploy" / "base" / "rbac.yaml"
ON_EVERY_CLUSTER = ["stand-in", pytest.param("real", marks=pytest.mark.cluster)]


def contracts() -> Path:
    """Return the folder of the CRD and the runtime; skip the test if it is not known."""
    if "SFT_TEST_DATA" not in os.environ:
        pytest.skip("SFT_TEST_DATA is not set: no contract to hold a TrainJob to")
    return Path(os.environ["SFT_TEST_DATA"], "contracts")


@dataclass(frozen=True)
class Site:
    """A cluster and a folder on its volume.

    Attributes:
        root: The folder.
        environment: How the cluster is reached.
        settings: What a recipe needs to train there.
        server: The stand-in; None for a real cluster.
    """

    root: Path
    environment: dict[str, str]
    settings: tuple[str, ...]
    server: KubernetesServer | None

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return sft's TrainJobs by name."""
        if self.server is not None:
            return {name: job.object for name, job in self.server.jobs().items()}
        found = json.loads(self._kubectl("get", "trainjobs", "-l", "app.kubernetes.io/managed-by=sft", "-o", "json"))
        return {job["metadata"]["name"]: job for job in found["items"]}

    def preempt(self, job: str, node: int) -> None:
        """Take a pod away: it gets a SIGTERM, and another one takes its place."""
        if self.server is not None:
            return self.server.controller.preempt(job, node)
        selector = f"jobset.sigs.k8s.io/jobset-name={job},batch.kubernetes.io/job-completion-index={node}"
        self._kubectl("delete", "pod", "--wait=false", "-l", selector)
        return None

    def delete(self, job: str) -> None:
        """Delete a job."""
        if self.server is not None:
            return self.server.controller.delete(job)
        self._kubectl("delete", "trainjob", job, "--ignore-not-found")
        return None

    def apply(self, manifest: str) -> None:
        """Create a job from a manifest, as GitOps tools do."""
        import yaml

        if self.server is not None:
            path = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{self.server.namespace}/trainjobs"
            job = yaml.safe_load(manifest)
            status, answer = self.server.answer("POST", path, {}, f"Bearer {self.server.token}", job)
            assert status == 201, answer
            return
        subprocess.run(["kubectl", "apply", "-f", "-"], input=manifest, text=True, check=True, env=self._env())

    def _kubectl(self, *arguments: str) -> str:
        return subprocess.run(
            ["kubectl", *arguments], env=self._env(), capture_output=True, text=True, check=True
        ).stdout

    def _env(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


@contextmanager
def site(kind: str, folder: Path) -> Iterator[Site]:
    """Yield a cluster, which ends with the block.

    Args:
        kind: ``stand-in`` or ``real``.
        folder: The volume of the stand-in.
    """
    cpu = ["training/launcher=kubeflow", "training.launcher.gpus_per_worker=0", "training.launcher.num_workers=2"]
    cpu += ["training.launcher.procs_per_worker=1", "training.launcher.cpu='1'", "training.launcher.memory=4Gi"]
    if kind == "stand-in":
        settings = [f"training.launcher.mount_path={folder}", "training.launcher.namespace=sft"]
        with KubernetesServer(contracts(), ROLE, volumes={"sft-workspace": folder}, home=folder) as server:
            yield Site(folder, server.environment, (*cpu, *settings), server)
        return
    if "SFT_TEST_KUBECONFIG" not in os.environ:
        pytest.skip("SFT_TEST_KUBECONFIG is not set: no cluster to train on")
    claim, _, path = os.environ["SFT_TEST_VOLUME"].partition(":")
    settings = [f"training.launcher.pvc={claim}", f"training.launcher.mount_path={path}"]
    settings.append(f"training.launcher.image={os.environ['SFT_TEST_IMAGE']}")
    with tempfile.TemporaryDirectory(dir=path) as root:
        yield Site(Path(root), {"KUBECONFIG": os.environ["SFT_TEST_KUBECONFIG"]}, (*cpu, *settings), None)
