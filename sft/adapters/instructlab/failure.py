"""Owns why a node's ranks ended: what torchrun and the ranks have written, as the error that a person reads.

And whether the next attempt may succeed: a rank that was killed or lost the others has made no error of its own.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.monitor import RankKilled, RankLost
from sft.adapters.instructlab.settings import Nodes
from sft.adapters.os.process import child_error, describe_exit, is_no_space, tail
from sft.errors import StageError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "MemoryError")
_LESS_MEMORY = "lower training.max_tokens_per_gpu, or shard more: training/fsdp=full_shard"
_LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL error", "timed out")
_LOST_TYPES = {"DistNetworkError", "DistStoreError", "DistBackendError"}
"""Errors of ``torch.distributed`` whose cause is another rank's end, or the network."""


def agent_file(nodes: Nodes) -> str:
    """Return the name of the file in which a node's torchrun says how its ranks ended."""
    return f"agent_{nodes.rank}.json"


def failure(errors: Path, nodes: Nodes, status: int, log: Path) -> StageError:
    """Return why the run ended: a rank was killed, else the first rank's own error, else torchrun's status.

    A killed rank comes first because the others then only see their connection to it close. SIGTERM doesn't count,
    because torchrun ends the others with it. SIGABRT counts last: NCCL ends a rank with it that has lost the others.

    Args:
        errors: Folder in which the ranks of all nodes write their errors, and each torchrun its own.
        nodes: The machines.
        status: Exit status of this node's torchrun.
        log: What this node's ranks have printed.
    """
    file = errors / agent_file(nodes)
    torchrun = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"exit_statuses": {}}
    killed = {rank: -s for rank, s in torchrun["exit_statuses"].items() if s < 0 and -s != signal.SIGTERM}
    for rank, number in killed.items():
        if number == signal.SIGKILL:
            return RankKilled(f"training failed: rank {rank} {describe_exit(-number)}", fix=_LESS_MEMORY, log=log)
    rank_errors = [json.loads(path.read_text(encoding="utf-8")) for path in errors.glob("rank_*.json")]
    # An error of ours is no consequence of another's end, whatever the nodes' clocks say.
    first = min(
        [error for error in rank_errors if error.get("expected")] or rank_errors,
        key=lambda error: float(error["time"]),
        default=None,
    )
    for rank, number in killed.items():
        if number != signal.SIGABRT or first is None or _is_lost_connection(first):
            return RankLost(f"training failed: rank {rank} {describe_exit(-number)}", log=log)
    if first is not None:
        text = f"{first['type']}: {first['message']}"
        if _contains(text, _OUT_OF_MEMORY):
            first["fix"] = _LESS_MEMORY
        elif is_no_space(text):
            first["fix"] = "free space, then repeat the command; the last full state is complete"
        elif _is_lost_connection(first):
            return RankLost(f"training failed: {text}", fix="see training.max_restarts", log=log)
        return child_error(first, what="training", log=log)
    if "error" in torchrun:
        error = torchrun["error"]
        if _is_lost_connection(error):
            return RankLost(f"torchrun failed: {error['type']}: {error['message']}", log=log)
        return child_error(error, what="torchrun", log=log)
    if status == -signal.SIGKILL:
        return RankKilled(f"training failed: torchrun {describe_exit(status)}", fix=_LESS_MEMORY, log=log)
    return StageError(f"training failed: torchrun {describe_exit(status)}; its last lines:\n{tail(log)}", log=log)


def _is_lost_connection(error: Mapping[str, Any]) -> bool:
    """Return whether an error says that the others are gone; one of ours, or of a full device, never does."""
    text = f"{error['type']}: {error['message']}"
    if error.get("expected") or is_no_space(text) or _contains(text, _OUT_OF_MEMORY):
        return False
    return error["type"] in _LOST_TYPES or _contains(text, _LOST_CONNECTION)


def _contains(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for phrase in phrases)
