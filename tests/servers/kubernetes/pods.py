"""A pod as a process of this machine: what the kubelet does for one container, with logs, restarts and an end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

INDEX = "batch.kubernetes.io/job-completion-index"
JOBSET = "jobset.sigs.k8s.io/jobset-name"
_REFERENCE = re.compile(r"\$\$|\$\((\w+)\)")

Object = dict[str, Any]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def expanded(text: str, env: dict[str, str]) -> str:
    """``$(NAME)`` as the kubelet replaces it; ``$$`` is a dollar."""
    return _REFERENCE.sub(lambda m: "$" if m[0] == "$$" else env.get(m[1], m[0]), text)


class Pod:
    """One pod and its container's process.

    The process is started by whatever thread calls `start`, and dies with that thread: nothing outlives the test.

    Attributes:
        object: As the API serves it.
        node: Its index.
        process: Of the container; None before its first start.
        end_reason: The kubelet's word for the end that it is about to meet; None = whatever the status says.
    """

    def __init__(self, name: str, namespace: str, node: int, job: str, template: Object) -> None:
        self.node = node
        self.end_reason: str | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._logs: list[list[tuple[datetime, str]]] = []
        labels = {**template["metadata"].get("labels", {}), JOBSET: job, INDEX: str(node)}
        self.object: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "creationTimestamp": now(),  # in whole seconds, as everywhere
                "labels": labels,
                "annotations": template["metadata"].get("annotations", {}),
            },
            "spec": template["spec"],
            "status": {"phase": "Pending", "conditions": []},
        }

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @property
    def restarts(self) -> int:
        return max(0, len(self._logs) - 1)

    def wait_for(self, reason: str, message: str) -> None:
        """Its container can't begin."""
        self._state({"waiting": {"reason": reason, "message": message}})

    def unscheduled(self, message: str) -> None:
        """There is no node for it."""
        reason = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self.object["status"] = {"phase": "Pending", "conditions": [reason]}

    def start(self, argv: list[str], env: dict[str, str], cwd: Path) -> None:
        """Begins, or begins again, its container."""
        wrapper = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        self.process = subprocess.Popen(
            [*wrapper, *argv],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        lines: list[tuple[datetime, str]] = []
        self._logs.append(lines)
        self._reader = threading.Thread(target=_keep, args=(self.process, lines), daemon=True)
        self._reader.start()
        self.object["status"]["phase"] = "Running"
        self.object["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
        self._state({"running": {"startedAt": now()}})

    def ended(self) -> int | None:
        """The exit status as Kubernetes counts it; None while it runs. The first look notes it in the object."""
        if self.process is None or (status := self.process.poll()) is None:
            return None
        self._reader.join(timeout=1.0)  # a container has ended when its last line is in the log
        status = 128 - status if status < 0 else status
        reason = self.end_reason or ("Completed" if status == 0 else "Error")
        self._state({"terminated": {"exitCode": status, "reason": reason, "finishedAt": now()}})
        self.object["status"]["phase"] = "Succeeded" if status == 0 else "Failed"
        return status

    def backs_off(self) -> None:
        """It ended, and will begin again."""
        [container] = self.object["status"]["containerStatuses"]
        container["lastState"] = container["state"]
        self.object["status"]["phase"] = "Running"
        self._state({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}})

    def signal(self, number: signal.Signals) -> None:
        """What the kubelet sends to the container's first process."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Ends it at once, and all of its group."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def log(self, *, previous: bool, since: datetime | None, tail: int | None) -> str | None:
        """What the container printed, each line after its time; None where there is no such container."""
        place = -2 if previous else -1
        if len(self._logs) < -place:
            return None
        lines = [(at, text) for at, text in self._logs[place] if since is None or at >= since]
        shown = lines[-tail:] if tail else lines
        return "".join(f"{at.strftime('%Y-%m-%dT%H:%M:%S.%f')}000Z {text}\n" for at, text in shown)

    def _state(self, state: Object) -> None:
        [before] = self.object["status"].get("containerStatuses", [{}])
        self.object["status"]["containerStatuses"] = [
            {"name": "node", "restartCount": self.restarts, "lastState": before.get("lastState", {}), "state": state}
        ]


def _keep(process: subprocess.Popen[bytes], lines: list[tuple[datetime, str]]) -> None:
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            lines.append((datetime.now(UTC), line.decode(errors="replace").rstrip("\n")))
