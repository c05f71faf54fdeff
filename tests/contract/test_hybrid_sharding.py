"""Two nodes of two real ranks each: sharded inside a node, replicated over nodes, against sharded over all four."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(280)]


def on_nodes(num_nodes: int, folder: Path, what: str) -> Any:
    """What rank 0 prints; a torchrun of two ranks for each node."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = []
    for node in range(num_nodes):
        where = ["--nnodes", str(num_nodes), "--node-rank", str(node), "--master-addr", "127.0.0.1"]
        where += ["--master-port", str(port), "--nproc-per-node", "2"]
        argv = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", *where]
        argv += ["-m", "tests.support.hybrid_ranks", str(folder), what]
        nodes.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try:
        said = [node.communicate(timeout=240) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert not any(node.returncode for node in nodes), "\n".join(error[-3000:] for _, error in said)
    return json.loads(said[0][0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hybrid")


@pytest.fixture(scope="module")
def on_four(folder: Path) -> Any:
    return on_nodes(2, folder, "train")


def test_a_node_has_the_whole_model_and_shards_it_over_its_ranks(on_four: Any) -> None:
    assert (on_four["HYBRID_SHARD"]["mesh"], on_four["FULL_SHARD"]["mesh"]) == ([2, 2], [4])
    assert on_four["HYBRID_SHARD"]["kept"] == pytest.approx(1 / 2, abs=0.02)
    assert on_four["FULL_SHARD"]["kept"] == pytest.approx(1 / 4, abs=0.02)


def test_replicas_train_what_four_shards_do(on_four: Any) -> None:
    hybrid, full = on_four["HYBRID_SHARD"], on_four["FULL_SHARD"]
    for one, other in zip(hybrid["steps"], full["steps"], strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    assert hybrid["weights"] == pytest.approx(full["weights"], abs=1e-6)


@pytest.mark.exhaustive
def test_a_state_of_replicas_goes_on_sharded_over_one_node(on_four: Any, folder: Path) -> None:
    before, after = on_four["HYBRID_SHARD"], on_nodes(1, folder, "load")["FULL_SHARD"]
    assert after["mesh"] == [2]
    assert after["digests"] == before["digests"]
    for one, other in zip(after["after"], before["after"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert before["after"][0] != before["steps"][-1]
