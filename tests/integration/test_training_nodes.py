"""Two nodes that train together: in two network namespaces where those can be made, else on the loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(300)]

SMALL = ["training.num_epochs=1", "dataset.max_samples=400", "registry=none", "eval=none"]
LINES = """
ip netns add {0}-0; ip netns add {0}-1
ip link add {0}a netns {0}-0 type veth peer name {0}a netns {0}-1
ip -n {0}-0 addr add 10.9.0.1/24 dev {0}a; ip -n {0}-1 addr add 10.9.0.2/24 dev {0}a
ip -n {0}-0 link set lo up; ip -n {0}-1 link set lo up
ip -n {0}-0 link set {0}a up; ip -n {0}-1 link set {0}a up
"""


@dataclass(frozen=True)
class Network:
    """How to start a process on node 0 and 1, and where node 0 is."""

    prefixes: tuple[list[str], list[str]]
    address: str
    settings: list[str]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    name = "sfttest"
    with ExitStack() as closing:
        closing.callback(lambda: [_quiet(f"ip netns del {name}-{node}") for node in (0, 1)])
        made = shutil.which("ip") is not None and _quiet("set -e" + LINES.format(name)) == 0
        if made:
            prefixes = tuple(["ip", "netns", "exec", f"{name}-{node}"] for node in (0, 1))
            yield Network(prefixes, "10.9.0.1:29500", [f"training.env.GLOO_SOCKET_IFNAME={name}a"])  # type: ignore[arg-type]
        else:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            yield Network(([], []), f"127.0.0.1:{port}", [])


def _quiet(script: str) -> int:
    return subprocess.run(["sh", "-c", script], capture_output=True, check=False).returncode


def run(cwd: Path, network: Network, *settings: str) -> list[tuple[int, str]]:
    """Both nodes of a run, as exit status and output."""
    shared = [*SMALL, *network.settings, "training.launcher.procs_per_worker=1", "training.launcher.num_workers=2"]
    command = [sys.executable, "-m", "sft", "run", "quickstart", *shared, *settings]
    command.append(f"training.launcher.rendezvous={network.address}")
    said = [cwd / f"node-{rank}.txt" for rank in (0, 1)]
    with ExitStack() as ending:
        nodes = {}
        for rank in (1, 0):
            nodes[rank] = subprocess.Popen(
                [*network.prefixes[rank], *command, f"training.launcher.node_rank={rank}"],
                cwd=cwd,
                stdout=ending.enter_context(said[rank].open("w")),
                stderr=subprocess.STDOUT,
            )
            ending.callback(nodes[rank].kill)  # what waits for a node that has ended would meet the next test's
        try:
            statuses = [nodes[rank].wait(timeout=200) for rank in (0, 1)]
        except subprocess.TimeoutExpired:
            pytest.fail("\n".join(f"{file.name}:\n{file.read_text()}" for file in said))
    return [(status, file.read_text()) for status, file in zip(statuses, said, strict=True)]


def curve(cwd: Path) -> list[float]:
    (file,) = cwd.glob("runs/store/train/*/logs/metrics.jsonl")
    rows: list[dict[str, Any]] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [row["loss"] for row in rows]


@pytest.mark.parametrize(
    "setting",
    [
        "training.fsdp.sharding_strategy=FULL_SHARD",
        "training.fsdp.sharding_strategy=HYBRID_SHARD",
        "training.context_parallel=2",
    ],
)
def test_two_nodes_train_one_model_and_tokenise_once(setting: str, network: Network, tmp_path: Path) -> None:
    first, second = run(tmp_path, network, setting)
    assert first[0] == 0, first[1]
    assert second[0] == 0, second[1]
    assert "✓ tokenize" in first[1]
    assert "tokenize:" not in second[1]
    assert "the part of this node" in second[1]
    alone = tmp_path / "alone"
    alone.mkdir()
    command = [sys.executable, "-m", "sft", "run", "quickstart", *SMALL]
    subprocess.run(command, cwd=alone, check=True, capture_output=True)
    assert curve(tmp_path) == pytest.approx(curve(alone), abs=1e-3)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        launcher = ["num_workers=2", "node_rank=0", f"rendezvous={address}", "procs_per_worker=1"]
        settings = [f"training.launcher.{setting}" for setting in launcher]
        command = [sys.executable, "-m", "sft", "run", "quickstart", *SMALL, *settings]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert f"node 0 can't listen on {address} (Address already in use)" in ended.stderr
    assert "a port that is free there" in ended.stderr
    assert "Traceback" not in ended.stderr
