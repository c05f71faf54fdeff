"""A Job of one pod, as `sft export job` prints it: what the Job controller and the kubelet do with it.

Of the Job's API: ``backoffLimit``, and ``podFailurePolicy`` by exit statuses, with which a deleted pod gets a successor
once it has ended. A process has no mounts: in its arguments, a folder of this machine stands for a mounted volume.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.servers.kubernetes.pods import Pod

Object = dict[str, Any]


class JobRun:
    """A Job at work; `look` brings it to where its specification says.

    Args:
        job: As it is applied.
        volumes: Claim -> folder.
        config_maps: Those that are applied with it.
        home: Folder in which containers begin, and their home.

    Attributes:
        statuses: Of the containers that have ended.
        num_failed: As ``status.failed`` counts.
        condition: ``Complete`` or ``Failed``; empty while it works.
    """

    def __init__(self, job: Object, volumes: dict[str, Path], home: Path, config_maps: Sequence[Object] = ()) -> None:
        self.statuses: list[int] = []
        self.num_failed = 0
        self.condition = ""
        self._spec, self._name, self._home = job["spec"], job["metadata"]["name"], home
        self._volumes = volumes
        self._config_maps = {found["metadata"]["name"]: found["data"] for found in config_maps}
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
        sources = {volume["name"]: self._source(volume) for volume in template["spec"]["volumes"]}
        folders = {
            mount["mountPath"]: str(folder)
            for mount in container["volumeMounts"]
            if (folder := sources[mount["name"]]) is not None
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

    def _source(self, volume: Object) -> Path | None:
        """Return the folder that is mounted, a ConfigMap's with its files; None for one that is empty."""
        if "persistentVolumeClaim" in volume:
            return self._volumes[volume["persistentVolumeClaim"]["claimName"]]
        if "configMap" not in volume:
            return None
        name = volume["configMap"]["name"]
        folder = self._home / name
        folder.mkdir(exist_ok=True)
        for file, text in self._config_maps[name].items():
            (folder / file).write_text(text, encoding="utf-8")
        return folder
