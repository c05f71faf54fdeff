"""A Job of one pod, as `sft export job` prints it: what the Job controller and the kubelet do with it.

Of the Job's API: ``backoffLimit``, and ``podFailurePolicy`` by exit statuses, with which a deleted pod gets a successor
once it has ended. A process has no mounts: in its arguments, a folder of this machine stands for a mounted volume.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.servers.kubernetes.pods import Pod

Object = dict[str, Any]


class JobRun:
    """A Job at work; `look` brings it to where its specification says.

    Args:
        job: As it is applied.
        volumes: Claim -> folder.
        home: Folder in which containers begin, and their home.

    Attributes:
        statuses: Of the containers that have ended.
        num_failed: As ``status.failed`` counts.
        condition: ``Complete`` or ``Failed``; empty while it works.
    """

    def __init__(self, job: Object, volumes: dict[str, Path], home: Path) -> None:
        self.statuses: list[int] = []
        self.num_failed = 0
        self.condition = ""
        self._spec, self._name, self._home = job["spec"], job["metadata"]["name"], home
        self._volumes = volumes
        self._pods: list[Pod] = []
        self._begin()

    def look(self) -> str:
        """Does what is due, and returns the condition."""
        if not self.condition and (status := self._pods[-1].ended()) is not None:
            self.statuses.append(status)
            self._has_ended(status)
        return self.condition

    def delete_pod(self) -> None:
        """Tells the pod's container to stop, as ``kubectl delete pod`` does."""
        self._pods[-1].signal(signal.SIGTERM)

    def log(self) -> str:
        """What the newest pod has printed."""
        return self._pods[-1].log(previous=False, since=None, tail=None) or ""

    def close(self) -> None:
        """Ends it at once."""
        self._pods[-1].kill()

    def _has_ended(self, status: int) -> None:
        action = "" if status == 0 else self._action(status)
        if status == 0:
            self.condition = "Complete"
        elif action == "FailJob":
            self.condition = "Failed"
        else:
            self.num_failed += action != "Ignore"
            if self.num_failed > self._spec["backoffLimit"]:
                self.condition = "Failed"
            else:
                self._begin()

    def _action(self, status: int) -> str:
        rules = [rule for rule in self._spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
        return next((rule["action"] for rule in rules if status in rule["onExitCodes"]["values"]), "Count")

    def _begin(self) -> None:
        template = self._spec["template"]
        [container] = template["spec"]["containers"]
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in template["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        }
        folders = {
            mount["mountPath"]: str(self._volumes[claims[mount["name"]]])
            for mount in container["volumeMounts"]
            if mount["name"] in claims
        }
        arguments = [*container["args"]]
        for path, folder in folders.items():
            arguments = [word.replace(path, folder) for word in arguments]
        env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.environ.get("PYTHONPATH", str(Path.cwd())),
            "HOME": str(self._home),
        }
        pod = Pod(f"{self._name}-{len(self._pods)}", "sft", 0, self._name, template)
        pod.start([sys.executable, "-m", "sft", *arguments], env, self._home)
        self._pods.append(pod)
