"""Owns where torchrun's rendezvous listens: on the one address that it was given, not on all of this machine's.

torch's TCPStore binds to every interface and has no login, and torchrun unpickles what the store holds
(elastic/rendezvous/c10d_rendezvous_backend.py:109@torch 2.13): who reaches its port runs code in the training.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sft.adapters.patched import patched
from sft.errors import StageError

LOOPBACK = "127.0.0.1"
KEY = "training.launcher.rendezvous"
_VARIABLES = ("PET_MASTER_ADDR", "PET_MASTER_PORT")
_IN_A_POD = (
    "node 0's pod must have an address of its own and listen on nothing else: "
    "take hostNetwork and other containers out of the runtime, or another runtime"
)
_NAMES = "let the nodes' DNS know it, or name node 0 by its address"
_RESOLVE_SECONDS = 60.0
"""How long the name of node 0 may take to be known: that of a pod is when the pod runs."""


@contextmanager
def listening_only_where_asked() -> Iterator[None]:
    """Make every TCPStore that torchrun hosts listen on the address of its host name alone, until the block ends."""
    import torch.distributed as dist
    from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend, static_tcp_rendezvous

    class Store(dist.TCPStore):  # type: ignore[misc]
        def __init__(
            self,
            host_name: str,
            port: int,
            world_size: int | None = None,
            is_master: bool = False,
            *rest: Any,
            **named: Any,
        ) -> None:
            if is_master:
                with bound_socket(host_name, port) as bound:
                    port, named["master_listen_fd"] = bound.getsockname()[1], bound.detach()
            super().__init__(host_name, port, world_size, is_master, *rest, **named)

    with patched(
        (dist, "TCPStore", Store),
        (c10d_rendezvous_backend, "TCPStore", Store),
        (static_tcp_rendezvous, "TCPStore", Store),
    ):
        yield


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to a host's address on this machine.

    Args:
        host: Name or address of this machine, as other nodes know it.
        port: 0 = any that is free.

    Raises:
        StageError: The host is not this machine, the port is taken, or a name leads others to their own loopback.
    """
    is_variables, key = _is_variables(host, port), _named_by(host, port)
    family, address = _resolve(host, key)
    if not _is_address(host) and host != "localhost" and ipaddress.ip_address(address[0]).is_loopback:
        message = f"{key}: this machine knows {host} as {address[0]}, where no other node reaches it"
        fix = f"{KEY}=ADDRESS:{port}, with an address of node 0 in the nodes' own network"
        raise StageError(message, fix=_IN_A_POD if is_variables else fix)
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address[0], port, *address[2:]))
    except OSError as error:
        bound.close()
        where = f"{address[0]}:{port}"
        fix = f"{KEY}=ADDRESS:PORT, with an address of node 0 and a port that is free there"
        message = f"{key}: node 0 can't listen on {where} ({error.strerror})"
        raise StageError(message, fix=_IN_A_POD if is_variables else fix) from error
    return bound


def _is_variables(host: str, port: int) -> bool:
    """Return whether torchrun's own variables say where to listen, as a TrainJob's runtime sets them in each pod."""
    return tuple(map(os.environ.get, _VARIABLES)) == (host, str(port))


def _named_by(host: str, port: int) -> str:
    return " and ".join(_VARIABLES) if _is_variables(host, port) else KEY


def _resolve(host: str, key: str) -> tuple[socket.AddressFamily, Any]:
    deadline = time.monotonic() + _RESOLVE_SECONDS
    while True:
        try:
            [(family, _, _, _, address), *_] = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            return family, address
        except socket.gaierror as error:
            if time.monotonic() > deadline:
                raise StageError(f"{key}: {host} is not known here ({error.strerror})", fix=_NAMES) from error
            time.sleep(1.0)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
