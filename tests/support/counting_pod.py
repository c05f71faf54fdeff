"""A pod whose ranks only count: ``python -m tests.support.counting_pod LOGS``.

Everything but torchrun and the ranks is real: the pod's own process, how nodes meet, what they write and how they end.
A rank counts to `STEPS` together with the others, notes each step as its full state, and sees at once when another
node's process is gone, as gloo and NCCL do by the connection.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from sft.adapters.instructlab import pod_entrypoint, torchrun
from sft.adapters.instructlab.layout import ERRORS, FINISHED, METRICS, RESUMED, STOP, STOPPED
from sft.files import write_json

STEPS = 12
STATE, ALIVE, HANG, DIES = "state.json", "alive", "hang", "dies"


def save(logs: Path, num_nodes: int) -> None:
    """Write what the pods read."""
    logs.mkdir(parents=True, exist_ok=True)
    (logs / METRICS).touch()
    options = {"on_gpu": False, "stall_timeout_seconds": 600.0, "compile_layers": False}
    main = {"num_epochs": 1, "output_dir": str(logs)}
    versions = pod_entrypoint._versions()
    env = {"NUM_NODES": str(num_nodes)}
    write_json(logs / "settings.json", {"main": main, "options": options, "env": env, "versions": versions})


def main() -> None:
    """Be a pod."""
    torchrun.supervise = _count  # type: ignore[assignment]
    torchrun._environment = lambda settings, _: dict(settings.env)  # type: ignore[assignment]
    pod_entrypoint.MainArgs = lambda **facts: _Main(**facts)  # type: ignore[assignment,misc]
    pod_entrypoint.main()


class _Main:
    def __init__(self, num_epochs: int, output_dir: str) -> None:
        self.num_epochs, self.output_dir = num_epochs, output_dir


def _count(
    _argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    without: Collection[str],
    poll: Callable[[], None],
    poll_seconds: float,
) -> int:
    """Stand in for torchrun and its ranks; return torchrun's exit status."""
    del without, poll_seconds
    logs, node, num = log.parent, int(os.environ["PET_NODE_RANK"]), int(env["NUM_NODES"])
    group = json.loads((logs / "gather" / "group.json").read_text())
    log.touch()
    (logs / ALIVE).mkdir(exist_ok=True)
    own = logs / ALIVE / f"{node}.json"
    write_json(own, {"pid": os.getpid(), "id": group[str(node)]})
    step = _read(logs / STATE).get("step", 0)
    if node == 0:
        write_json(
            logs / RESUMED, {"step": step, "epoch": 0, "damaged": [], "slower": [], "num_steps": STEPS, "num_epochs": 1}
        )
    while True:
        time.sleep(0.05)
        poll()
        if any(_is_gone(logs, other, group) for other in range(num)):
            error = {"type": "RuntimeError", "message": "Connection closed by peer [10.0.0.3]:29500"}
            write_json(logs / ERRORS / f"rank_{node}.json", {**error, "time": time.time()})
            return 1
        if (logs / HANG).exists():
            write_json(logs / ERRORS / f"rank_{node}.json", {"type": "DistBackendError", "message": "x", "time": 1.0})
            return 1
        if (logs / DIES / str(node)).exists():
            (logs / DIES / str(node)).unlink()
            write_json(logs / ERRORS / f"agent_{node}.json", {"exit_statuses": {str(node): -9}})
            return 1
        if node == 0 and all((logs / ALIVE / f"{other}.json").exists() for other in range(num)):
            state = _read(logs / STATE).get("step", 0)
            if (logs / STOP).exists():
                write_json(logs / STOPPED, {"step": state})
            elif state < STEPS:
                write_json(logs / STATE, {"step": state + 1})
            else:
                write_json(logs / FINISHED, {})
        if (logs / STOPPED).exists() or (logs / FINISHED).exists():
            own.unlink()
            return 0


def _is_gone(logs: Path, other: int, group: Mapping[str, str]) -> bool:
    """Return whether a node's process has begun with this group, and is no more."""
    note = _read(logs / ALIVE / f"{other}.json")
    if note.get("id") != group[str(other)]:
        return False
    stat = Path(f"/proc/{note['pid']}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def _read(file: Path) -> dict[str, object] | dict[str, int] | dict[str, str]:  # type: ignore[return]
    try:
        return dict(json.loads(file.read_text()))
    except FileNotFoundError:
        return {}


if __name__ == "__main__":
    main()
