"""A cluster to train on: a stand-in, or a real one if ``SFT_TEST_KUBECONFIG`` names its kubeconfig.

The stand-in (`tests.servers.kubernetes`) starts a TrainJob's pods as processes of this machine and checks every object
against the official contract. `site` yields either kind as a `Site`, and the same tests run on both.

A real one also needs ``SFT_TEST_IMAGE`` (with this sft in it) and ``SFT_TEST_VOLUME`` as ``CLAIM:PATH``: a claim in the
context's namespace, and where that volume is mounted here and in the pods. Everything that is made there has a name of
its own, or a value of the label ``sft-test``, by which it goes at the end; what others have there isn't touched.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft.adapters.kubeflow.access import Access
from sft.adapters.kubeflow.manifest import TrainJob
from sft.config.compose import find_recipe
from sft.runner import Pod, export_job
from sft.runner.export_job import VOLUME
from tests.servers.kubernetes import KubernetesServer
from tests.servers.kubernetes.jobs import JobRun
from tests.support.trainjobs import asked

ROLE = Path(__file__).parents[2] / "deploy" / "base" / "rbac.yaml"
_TAG = "sft-test"
_KILL_RANKS = """
import os, signal
for process in filter(str.isdigit, os.listdir("/proc")):
    if b"rank.worker" in open(f"/proc/{process}/cmdline", "rb").read():
        os.kill(int(process), signal.SIGKILL)
"""
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
        tag: Value of the label of everything that is made there.
    """

    root: Path
    environment: dict[str, str]
    settings: tuple[str, ...]
    server: KubernetesServer | None
    tag: str

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return these tests' TrainJobs by name."""
        if self.server is not None:
            return {name: job.object for name, job in self.server.jobs().items()}
        selector = f"app.kubernetes.io/managed-by=sft,{_TAG}={self.tag}"
        found = json.loads(self._kubectl("get", "trainjobs", "-l", selector, "-o", "json"))
        return {job["metadata"]["name"]: job for job in found["items"]}

    def preempt(self, job: str, node: int) -> None:
        """Take a pod away: it gets a SIGTERM, and another one takes its place."""
        if self.server is not None:
            return self.server.controller.preempt(job, node)
        selector = f"jobset.sigs.k8s.io/jobset-name={job},batch.kubernetes.io/job-completion-index={node}"
        self._kubectl("delete", "pod", "--wait=false", "-l", selector)
        return None

    def kill(self, job: str, node: int) -> None:
        """Kill what trains in a pod, as the kernel does where memory runs out: its container begins again."""
        if self.server is not None:
            return self.server.controller.kill(job, node, "Error")
        self._kubectl("exec", self._pod(job, node), "-c", "node", "--", "python", "-c", _KILL_RANKS)
        return None

    def num_ends(self, job: str) -> int:
        """Return how many containers of a job have ended and begun again."""
        if self.server is not None:
            return self.server.jobs()[job].num_ends
        pods = json.loads(self._kubectl("get", "pods", "-l", f"jobset.sigs.k8s.io/jobset-name={job}", "-o", "json"))
        return sum(status["restartCount"] for pod in pods["items"] for status in pod["status"]["containerStatuses"])

    def asked(self, script: str, **changes: Any) -> TrainJob:
        """Return a job of two pods that run a script, to be created here."""
        said = dict(setting.partition("=")[::2] for setting in self.settings)
        places = ("image", "pvc", "mount_path")
        own: dict[str, Any] = {field: said.get(f"training.launcher.{field}") for field in places}
        own["labels"] = {_TAG: self.tag}
        return asked(self.root, script, **{**{name: value for name, value in own.items() if value}, **changes})

    @property
    def access(self) -> Access:
        """Return how this process reaches the cluster, with `environment` in its own."""
        return Access(namespace=self.server.namespace if self.server else None, verify_tls=True, ca=None)

    @contextmanager
    def with_role(self, *changes: tuple[str, str]) -> Iterator[tuple[dict[str, str], Access]]:
        """Yield how somebody reaches the cluster who has the rights of a changed ``rbac.yaml`` alone.

        Args:
            changes: What stands there, and what stands in its place.
        """
        text = ROLE.read_text(encoding="utf-8")
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        if self.server is not None:
            before_rules = self.server.rules
            self.server.rules = next(one["rules"] for one in yaml.safe_load_all(text) if one["kind"] == "Role")
            try:
                yield self.environment, self.access
            finally:
                self.server.rules = before_rules
            return
        name = f"sft-test-{self.tag}"
        account = f"apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n---\n"
        text = account + text.replace("name: sft-trainjobs", f"name: {name}").replace("name: sft\n", f"name: {name}\n")
        self._kubectl("apply", "-f", "-", text=text)
        try:
            config = json.loads(self._kubectl("config", "view", "--minify", "--flatten", "--raw", "-o", "json"))
            cluster = config["clusters"][0]["cluster"]
            ca = self.root / "ca.pem"
            ca.write_bytes(base64.b64decode(cluster.get("certificate-authority-data", "")))
            token = self._kubectl("create", "token", name).strip()
            namespace = config["contexts"][0]["context"].get("namespace", "default")
            environment = {"KUBERNETES_SERVER_URL": cluster["server"], "KUBERNETES_AUTH_TOKEN": token}
            trusted = None if cluster.get("insecure-skip-tls-verify") or not ca.stat().st_size else str(ca)
            verify = not cluster.get("insecure-skip-tls-verify", False)
            yield environment, Access(namespace=namespace, verify_tls=verify, ca=trusted)
        finally:
            self._kubectl("delete", "-f", "-", text=text)

    @contextmanager
    def service_account(self, file: Path) -> Iterator[str]:
        """Yield the name of a service account of the manifests, which is there for the block; the stand-in has it."""
        name = str(yaml.safe_load(file.read_text(encoding="utf-8"))["metadata"]["name"])
        is_there = self.server is not None or self._kubectl("get", "serviceaccount", name, "--ignore-not-found")
        if not is_there:
            self._kubectl("apply", "-f", str(file))
        try:
            yield name
        finally:
            if not is_there:
                self._kubectl("delete", "serviceaccount", name, "--ignore-not-found")

    def delete(self, job: str) -> None:
        """Delete a job."""
        if self.server is not None:
            return self.server.controller.delete(job)
        self._kubectl("delete", "trainjob", job, "--ignore-not-found")
        return None

    def apply(self, manifest: str) -> None:
        """Create a job from a manifest, as GitOps tools do."""
        if self.server is not None:
            path = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{self.server.namespace}/trainjobs"
            job = yaml.safe_load(manifest)
            status, answer = self.server.answer("POST", path, {}, f"Bearer {self.server.token}", job)
            assert status == 201, answer
            return
        subprocess.run(["kubectl", "apply", "-f", "-"], input=manifest, text=True, check=True, env=self._env())

    @property
    def on_a_jobs_volume(self) -> str:
        """The folder, as a Job of `sft export job` has it."""
        return VOLUME if self.server is not None else f"{VOLUME}/{self.root.name}"

    @contextmanager
    def job(self, recipe: str, *overrides: str) -> Iterator[JobRun | RealJob]:
        """Yield the Job of a recipe at work, as `sft export job` prints it; it goes with the block."""
        said = dict(setting.partition("=")[::2] for setting in self.settings)
        image, claim = (said.get(f"training.launcher.{name}") for name in ("image", "pvc"))
        small = Pod(image=image, claim=claim, gpus=0, cpu="1", memory="4Gi", memory_limit="8Gi", fs_group=0)
        objects = export_job(find_recipe(recipe), overrides, small)
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        if self.server is not None:
            maps = [found for found in objects if found["kind"] == "ConfigMap"]
            one: JobRun | RealJob = JobRun(objects[-1], {"sft-workspace": self.root}, self.root, maps)
        else:
            self._kubectl("apply", "-f", "-", text=text)
            one = RealJob(objects[-1]["metadata"]["name"], self)
        try:
            yield one
        finally:
            one.close()
            if self.server is None:
                self._kubectl("delete", "--ignore-not-found", "-f", "-", text=text)

    def _pod(self, job: str, node: int) -> str:
        selector = f"jobset.sigs.k8s.io/jobset-name={job},batch.kubernetes.io/job-completion-index={node}"
        return self._kubectl("get", "pod", "-l", selector, "-o", "name").split()[0]

    def _kubectl(self, *arguments: str, text: str | None = None) -> str:
        command = ["kubectl", *arguments]
        return subprocess.run(command, input=text, env=self._env(), capture_output=True, text=True, check=True).stdout

    def _env(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


@dataclass(frozen=True)
class RealJob:
    """A Job of a real cluster, with what `tests.servers.kubernetes.jobs.JobRun` says of one of the stand-in."""

    name: str
    site: Site

    def look(self) -> str:
        return next((one["type"] for one in self._status().get("conditions", []) if one["status"] == "True"), "")

    @property
    def num_failed(self) -> int:
        return int(self._status().get("failed", 0))

    def delete_pod(self) -> None:
        self.site._kubectl("delete", "pod", "--wait=false", "-l", f"job-name={self.name}")

    def log(self) -> str:
        pods = json.loads(self.site._kubectl("get", "pods", "-l", f"job-name={self.name}", "-o", "json"))["items"]
        newest = max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)
        if newest is None or newest["status"]["phase"] == "Pending":
            return ""
        return self.site._kubectl("logs", newest["metadata"]["name"])

    def close(self) -> None:
        self.site._kubectl("delete", "job", self.name, "--ignore-not-found")

    def _status(self) -> dict[str, Any]:
        return dict(json.loads(self.site._kubectl("get", "job", self.name, "-o", "json"))["status"])


@contextmanager
def site(kind: str, folder: Path) -> Iterator[Site]:
    """Yield a cluster, which ends with the block.

    Args:
        kind: ``stand-in`` or ``real``.
        folder: The volume of the stand-in.
    """
    tag = secrets.token_hex(5)
    cpu = ["training/launcher=kubeflow", "training.launcher.gpus_per_worker=0", "training.launcher.num_workers=2"]
    cpu += ["training.launcher.procs_per_worker=1", "training.launcher.cpu='1'", "training.launcher.memory=4Gi"]
    cpu.append(f"training.launcher.labels={{{_TAG}: {tag}}}")
    if kind == "stand-in":
        settings = [f"training.launcher.mount_path={folder}", "training.launcher.namespace=sft"]
        with KubernetesServer(contracts(), ROLE, volumes={"sft-workspace": folder}, home=folder) as server:
            yield Site(folder, server.environment, (*cpu, *settings), server, tag)
        return
    if "SFT_TEST_KUBECONFIG" not in os.environ:
        pytest.skip("SFT_TEST_KUBECONFIG is not set: no cluster to train on")
    claim, _, path = os.environ["SFT_TEST_VOLUME"].partition(":")
    settings = [f"training.launcher.pvc={claim}", f"training.launcher.mount_path={path}"]
    settings.append(f"training.launcher.image={os.environ['SFT_TEST_IMAGE']}")
    with tempfile.TemporaryDirectory(dir=path, prefix="sft-test-", ignore_cleanup_errors=True) as root:
        environment = {"KUBECONFIG": os.environ["SFT_TEST_KUBECONFIG"]}
        one = Site(Path(root), environment, (*cpu, *settings), None, tag)
        try:
            yield one
        finally:
            one._kubectl("delete", "trainjobs", "-l", f"{_TAG}={tag}", "--ignore-not-found")
