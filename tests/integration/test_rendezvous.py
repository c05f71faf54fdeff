"""Nobody outside of this machine can speak to a training on it."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

import pytest

from sft.stages.training_task import TrainInputs
from tests.support.training import CONFIG, running, steps_done, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads sockets in /proc"),
]
_LISTENING = "0A"  # TCP_LISTEN, include/net/tcp_states.h


def descendants(root: int) -> set[int]:
    """A process and all that came from it."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def listening(processes: set[int]) -> list[str]:
    """The addresses at which processes take TCP connections."""
    sockets = set()
    for pid in processes:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(str(handle.readlink()))
            except FileNotFoundError:
                continue
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _LISTENING and f"socket:[{rest[5]}]" in sockets:
                addresses.append(_address(local.partition(":")[0]))
    return addresses


def _address(text: str) -> str:
    """An address as the kernel writes it: words of 4 bytes, each in the machine's order."""
    words = (int(text[place : place + 8], 16).to_bytes(4, sys.byteorder) for place in range(0, len(text), 8))
    return str(ipaddress.ip_address(b"".join(words)))


@pytest.mark.long
def test_a_training_on_one_machine_listens_on_the_loopback_alone(train_inputs: TrainInputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with running(CONFIG, train_inputs, out) as parent:
        assert wait_for(lambda: steps_done(out) or parent.poll() is not None, 120)
        addresses = listening(descendants(parent.pid))
    assert len(addresses) >= 3, "torchrun's store, and each of two ranks"
    assert [address for address in addresses if not ipaddress.ip_address(address).is_loopback] == []
