"""What Kubeflow Trainer, JobSet, the Job controller, the scheduler and the kubelet do with a TrainJob, in one thread.

As with the runtime `torch-distributed`, whose pods have JobSet's default ``restartPolicy: OnFailure``: a container that
ends with another status than 0 begins again, until that has happened `Faults.backoff_limit` times in the whole job.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.servers.kubernetes.contract import node_patch
from tests.servers.kubernetes.pods import Pod, expanded, now

_TICK_SECONDS = 0.05
_RESTART_SECONDS = 0.3
_PODS_SECONDS = 0.3
"""From a TrainJob to its JobSet, to the Job, to the pods."""
_TERMINATE_SECONDS = 20.0
_DEPLOY = Path(__file__).parents[3] / "deploy"
_TOKEN = {"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}

Object = dict[str, Any]


def _service_accounts() -> dict[str, bool]:
    """Those of the manifests, and the one that each namespace has."""
    found = {"default": True}
    for file in _DEPLOY.glob("*/serviceaccount.yaml"):
        account = yaml.safe_load(file.read_text(encoding="utf-8"))
        found[account["metadata"]["name"]] = account.get("automountServiceAccountToken", True)
    return found


@dataclass
class Faults:
    """What is wrong with the cluster; a test may change it at any time.

    Attributes:
        unschedulable: Node -> why there is no place for it.
        image_errors: Node -> why its image can't be pulled.
        suspended: Whether jobs wait for a queue.
        no_pods: Why the Job controller may make no pods: a quota, a LimitRange, pod security; empty = it may.
        invalid_jobs: Why JobSet can't make the Job; empty = it can.
        service_accounts: Those that there are -> whether their pods get a token.
        backoff_limit: So many ends of containers are borne.
        silent_kubelets: Nodes whose machine no longer answers the API server, which asks it for logs.
    """

    unschedulable: dict[int, str] = field(default_factory=dict)
    image_errors: dict[int, str] = field(default_factory=dict)
    suspended: bool = False
    no_pods: str = ""
    invalid_jobs: str = ""
    service_accounts: dict[str, bool] = field(default_factory=_service_accounts)
    backoff_limit: int = 6
    silent_kubelets: set[int] = field(default_factory=set)


@dataclass
class Job:
    """A TrainJob and its pods."""

    object: Object
    port: int
    pods: list[Pod] = field(default_factory=list)
    going: list[tuple[Pod, float]] = field(default_factory=list)
    restart_at: dict[str, float] = field(default_factory=dict)
    num_ends: int = 0
    made_at: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        return any(c["type"] in {"Complete", "Failed"} and c["status"] == "True" for c in self.conditions)

    @property
    def conditions(self) -> list[Object]:
        found: list[Object] = self.object.setdefault("status", {}).setdefault("conditions", [])
        return found


class Controller(threading.Thread):
    """Brings every job to where its specification says.

    Args:
        volumes: Claim -> folder; it is mounted where it lies.
        secrets: Secret -> key -> value.
        home: Folder in which containers begin, and their home.

    Attributes:
        jobs: By name.
        orphans: What is left of deleted jobs, by name: their JobSet, until its pods are gone.
        events: Oldest first.
        faults: What is wrong.
        lock: Held by whoever reads or changes the others.
    """

    def __init__(self, volumes: dict[str, Path], secrets: dict[str, dict[str, str]], home: Path) -> None:
        super().__init__(daemon=True)
        self.jobs: dict[str, Job] = {}
        self.orphans: dict[str, Job] = {}
        self.events: list[Object] = []
        self.faults = Faults()
        self.lock = threading.RLock()
        self._volumes, self._secrets, self._home = volumes, secrets, home
        self._closing = threading.Event()
        self._suffixes = (f"{number:05x}" for number in itertools.count(0xABCDE))

    def run(self) -> None:
        while not self._closing.wait(_TICK_SECONDS):
            with self.lock:
                for name, job in [*self.jobs.items(), *self.orphans.items()]:
                    self._reconcile(name, job)
        with self.lock:
            for pod in self.pods():
                pod.kill()

    def pods(self) -> list[Pod]:
        """Every pod, those that are about to go and those of deleted jobs among them."""
        jobs = [*self.jobs.values(), *self.orphans.values()]
        return [pod for job in jobs for pod in [*job.pods, *(pod for pod, _ in job.going)]]

    def close(self) -> None:
        """Kills every pod."""
        self._closing.set()
        self.join()

    def preempt(self, name: str, node: int) -> None:
        """Takes a pod away in favour of something more important: it is told to stop, and another one made."""
        with self.lock:
            job = self.jobs[name]
            [pod] = [pod for pod in job.pods if pod.node == node]
            reason = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
            pod.object["status"]["conditions"].append(reason)
            self._event("Pod", pod.name, "Preempted", "Preempted by pod important on node a")
            self._tell_to_stop(job, pod)
            job.num_ends += 1
            job.pods.append(self._new_pod(job, node))

    def kill(self, name: str, node: int, reason: str = "OOMKilled") -> None:
        """Kills a container as the kernel does."""
        with self.lock:
            [pod] = [pod for pod in self.jobs[name].pods if pod.node == node]
            pod.end_reason = reason
            pod.signal(signal.SIGKILL)

    def lose_node(self, name: str, node: int) -> None:
        """Loses the machine of a pod: nobody tells it to stop, and its successor is made once its end is believed."""
        with self.lock:
            job = self.jobs[name]
            [pod] = [pod for pod in job.pods if pod.node == node]
            reason = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
            pod.object["status"]["conditions"].append(reason)
            pod.object["metadata"]["deletionTimestamp"] = now()
            pod.kill()
            job.pods.remove(pod)
            job.num_ends += 1
            job.pods.append(self._new_pod(job, node))

    def delete_jobset(self, name: str) -> None:
        """Deletes a job's JobSet, which the trainer makes anew."""
        with self.lock:
            job = self.jobs[name]
            for pod in list(job.pods):
                self._tell_to_stop(job, pod)
            job.num_ends = 0

    def delete(self, name: str, *, in_foreground: bool = False) -> None:
        """What a deletion does: in the background the job goes, then its JobSet, then the pods.

        In the foreground the job goes last; Trainer 2.3 doesn't see that it is going and makes its JobSet anew, so it
        never ends.
        """
        with self.lock:
            job = self.jobs[name]
            for pod in list(job.pods):
                self._tell_to_stop(job, pod)
            if in_foreground:
                job.object["metadata"].setdefault("deletionTimestamp", now())
                job.num_ends = 0  # of the new JobSet
                return
            self.orphans[name] = self.jobs.pop(name)

    def _tell_to_stop(self, job: Job, pod: Pod) -> None:
        pod.object["metadata"]["deletionTimestamp"] = now()
        pod.signal(signal.SIGTERM)
        job.pods.remove(pod)
        job.going.append((pod, time.monotonic() + _TERMINATE_SECONDS))

    def _reconcile(self, name: str, job: Job) -> None:
        for pod, deadline in list(job.going):
            if time.monotonic() > deadline:
                pod.kill()
            if pod.process is None or pod.ended() is not None:
                job.going.remove((pod, deadline))
        if name in self.orphans:
            if not job.going:
                del self.orphans[name]
            return
        if job.is_over:
            return
        if self.faults.suspended or job.object["spec"].get("suspend"):
            self._condition(job, "Suspended", "Suspended", "TrainJob is suspended")
            return
        if job.conditions:
            job.conditions.clear()
        if not job.pods and not job.num_ends:
            if time.monotonic() - job.made_at < _PODS_SECONDS or self._makes_no_pods(name, job):
                return
            job.pods = [self._new_pod(job, node) for node in range(job.object["spec"]["trainer"].get("numNodes", 1))]
        for pod in job.pods:
            self._reconcile_pod(job, pod)
        if all(pod.object["status"]["phase"] == "Succeeded" for pod in job.pods):
            self._condition(job, "Complete", "JobsCompleted", "jobset completed successfully")
        elif time.monotonic() - job.made_at > job.object["spec"].get("activeDeadlineSeconds", float("inf")):
            said = "TrainJob exceeded its active deadline"
            self._condition(job, "Failed", "DeadlineExceeded", said)
            for pod in list(job.pods):
                self._tell_to_stop(job, pod)
        elif job.num_ends > self.faults.backoff_limit:
            self._condition(job, "Failed", "JobsFailed", "jobset failed due to one or more job failures")
            self._event("Job", f"{name}-node-0", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
            for pod in [pod for pod in job.pods if pod.ended() is None]:
                self._tell_to_stop(job, pod)

    def _makes_no_pods(self, name: str, job: Job) -> bool:
        """Whether a controller can't make the pods; it says so in an event, and tries again."""
        noise = f"Error updating Endpoint Slices for Service sft/{name}: failed to create EndpointSlice: not found"
        self._event("Service", name, "FailedToUpdateEndpointSlices", noise)
        if why := self.faults.invalid_jobs:
            said = f'job creation failed with error: Job.batch "{name}-node-0" is invalid: {why}'
            self._event("JobSet", name, "JobCreationFailed", said)
            return True
        account = node_patch(job.object)["spec"].get("serviceAccountName", "default")
        why = self.faults.no_pods
        if account not in self.faults.service_accounts:
            why = f'error looking up service account sft/{account}: serviceaccount "{account}" not found'
        if why:
            said = f'Error creating: pods "{name}-node-0-0-" is forbidden: {why}'
            self._event("Job", f"{name}-node-0", "FailedCreate", said)
        return bool(why)

    def _reconcile_pod(self, job: Job, pod: Pod) -> None:
        if pod.process is None:
            self._begin(job, pod)
        elif pod.name in job.restart_at:
            if time.monotonic() >= job.restart_at[pod.name]:
                del job.restart_at[pod.name]
                self._begin(job, pod)
        elif pod.object["status"]["phase"] == "Running" and (status := pod.ended()) is not None and status != 0:
            job.num_ends += 1
            if job.num_ends <= self.faults.backoff_limit:
                job.restart_at[pod.name] = time.monotonic() + _RESTART_SECONDS
                pod.end_reason = None
                pod.backs_off()

    def _begin(self, job: Job, pod: Pod) -> None:
        spec, container = pod.object["spec"], pod.object["spec"]["containers"][0]
        if (why := self.faults.unschedulable.get(pod.node)) is not None:
            pod.unscheduled(why)
            return self._event("Pod", pod.name, "FailedScheduling", why)
        claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "emptyDir" not in v}
        for mount in container["volumeMounts"]:
            claim = claims.get(mount["name"])
            if claim and str(self._volumes.get(claim)) != mount["mountPath"]:
                pod.unscheduled(f'persistentvolumeclaim "{claim}" not found')
                return self._event("Pod", pod.name, "FailedScheduling", f'persistentvolumeclaim "{claim}" not found')
        if (why := self.faults.image_errors.get(pod.node)) is not None:
            pod.wait_for("ImagePullBackOff", f'Back-off pulling image "{container["image"]}"')
            return self._event("Pod", pod.name, "Failed", f'Failed to pull image "{container["image"]}": {why}')
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.environ.get("PYTHONPATH", str(Path.cwd())),
            "HOME": str(self._home),
        }
        for variable in container["env"]:
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference is None:
                env[variable["name"]] = expanded(variable["value"], env)
            elif reference["key"] in self._secrets.get(reference["name"], {}):
                env[variable["name"]] = self._secrets[reference["name"]][reference["key"]]
            else:
                why = f'secret "{reference["name"]}" not found'
                pod.wait_for("CreateContainerConfigError", why)
                return self._event("Pod", pod.name, "Failed", f"Error: {why}")
        argv = [expanded(word, env) for word in container["command"]]
        env["PET_MASTER_ADDR"] = "127.0.0.1"  # there is no DNS for a headless service here
        pod.start(argv, env, self._home)
        return None

    def _new_pod(self, job: Job, node: int) -> Pod:
        name, trainer = job.object["metadata"]["name"], job.object["spec"]["trainer"]
        template = node_patch(job.object)
        [patched] = template["spec"]["containers"]
        container = {
            **patched,
            "image": trainer["image"],
            "command": [*trainer.get("command", []), *trainer.get("args", [])],
            "env": [*trainer.get("env", []), *_pet(job, node)],
            "resources": trainer.get("resourcesPerNode", {}),
        }
        if self.faults.service_accounts[template["spec"].get("serviceAccountName", "default")]:
            # As the API server's own admission does.
            container["volumeMounts"] = [*container["volumeMounts"], _TOKEN]
        template = {**template, "spec": {**template["spec"], "containers": [container]}}
        namespace = job.object["metadata"]["namespace"]
        return Pod(f"{name}-node-0-{node}-{next(self._suffixes)}", namespace, node, name, template)

    def _condition(self, job: Job, kind: str, reason: str, message: str) -> None:
        found = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
        job.conditions[:] = [found]

    def _event(self, kind: str, name: str, reason: str, message: str) -> None:
        about = {"kind": kind, "name": name}
        event = {"type": "Warning", "reason": reason, "message": message, "involvedObject": about}
        for known in self.events:  # they outlive what they are about, by an hour
            if all(known[key] == value for key, value in event.items()):
                known |= {"lastTimestamp": now(), "count": known["count"] + 1}
                return
        self.events.append({**event, "lastTimestamp": now(), "count": 1})


def _pet(job: Job, node: int) -> list[Object]:
    """What the trainer's torch plugin sets."""
    trainer, name = job.object["spec"]["trainer"], job.object["metadata"]["name"]
    values = {
        "PET_NNODES": trainer.get("numNodes", 1),
        "PET_NPROC_PER_NODE": trainer.get("numProcPerNode", "auto"),
        "PET_NODE_RANK": node,
        "PET_MASTER_ADDR": f"{name}-node-0-0.{name}",
        "PET_MASTER_PORT": job.port,
    }
    return [{"name": key, "value": str(value)} for key, value in values.items()]


def free_port() -> int:
    """The real port is 29500 in a pod of its own; here every job needs another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
