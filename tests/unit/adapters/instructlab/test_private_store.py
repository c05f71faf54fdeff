"""The rendezvous listens on the address that was given, or says why it can't."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from sft.adapters.instructlab import private_store
from sft.adapters.instructlab.private_store import bound_socket, listening_only_where_asked
from sft.errors import StageError


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Names that this machine knows, besides its own."""
    names: dict[str, str] = {}
    resolve = socket.getaddrinfo

    def lookup(host: str, *rest: Any, **named: Any) -> Any:
        return resolve(names.get(host, host), *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return names


@pytest.mark.slow
def test_the_store_of_torchrun_is_reached_at_its_address_and_at_no_other() -> None:
    with listening_only_where_asked():
        from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import TCPStore

        store = TCPStore("127.0.0.1", 0, 1, True, multi_tenant=True)
        store.set("key", "value")
        assert store.get("key") == b"value"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", store.port), timeout=5)


def test_a_taken_port_is_named() -> None:
    with bound_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StageError, match=rf"can't listen on 127\.0\.0\.1:{port} \(Address already in use\)"):
            bound_socket("127.0.0.1", port)


def test_a_taken_port_in_a_pod_names_no_setting_that_a_trainjob_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("PET_MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("PET_MASTER_PORT", str(port))
        with pytest.raises(StageError, match="PET_MASTER_ADDR and PET_MASTER_PORT: node 0 can't listen") as caught:
            bound_socket("127.0.0.1", port)
    assert "training.launcher.rendezvous" not in str(caught.value)
    assert "hostNetwork" in str(caught.value.fix)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(StageError, match=r"node 0 can't listen on 192\.0\.2\.1:29500 \(Cannot assign"):
        bound_socket("192.0.2.1", 29500)


def test_a_name_that_leads_other_nodes_to_themselves_is_refused(known: dict[str, str]) -> None:
    known["node-a"] = "127.0.1.1"  # as Debian's /etc/hosts has a machine's own name
    with pytest.raises(StageError, match=r"knows node-a as 127\.0\.1\.1, where no other node reaches it"):
        bound_socket("node-a", 29500)


def test_a_name_that_nobody_knows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(private_store, "_RESOLVE_SECONDS", 0.0)
    with pytest.raises(StageError, match="node-x is not known here"):
        bound_socket("node-x", 29500)
