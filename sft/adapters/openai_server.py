"""Owns a server that speaks OpenAI's API for a model's folder, run by an engine that is there already.

vLLM in the environment of an interpreter, or transformers' own ``transformers serve`` of ours (needs
``pip install 'transformers[serving]'``). The server runs in a process group of its own, which ends with its caller.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from sft.adapters.evaluation.as_saved import weights_dtype
from sft.adapters.os.process import describe_exit, started, tail, wait_for_last_lines
from sft.errors import StageError

_SERVING = ("fastapi", "openai", "pydantic", "starlette", "uvicorn")
"""What ``transformers serve`` needs besides (the extra ``serving``)."""
_POLL_SECONDS = 0.5
_MOST_BYTES = 1 << 20
_SERVE = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"


@dataclass(frozen=True, kw_only=True)
class Server:
    """What is to be served.

    Attributes:
        engine: ``vllm`` or ``transformers``.
        argv: The command.
        name: What the server calls the model.
        host: Address it listens on.
        env: Added to the process's environment.
    """

    engine: str
    argv: tuple[str, ...]
    name: str
    host: str
    port: int
    env: dict[str, str]

    @property
    def address(self) -> str:
        """Up to ``/v1``, as a client on this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{self.port}/v1"


def vllm(folder: Path, name: str, *, python: Path, host: str, port: int, trust_remote_code: bool) -> Server:
    """Return vLLM's server, in the environment of an interpreter; ``-I`` keeps ours out of it."""
    options = {
        "--model": str(folder),
        "--served-model-name": name,
        "--host": host,
        "--port": str(port),
        "--dtype": weights_dtype(folder),
    }
    arguments = [part for pair in options.items() for part in pair]
    argv = [str(python), "-I", "-m", "vllm.entrypoints.openai.api_server", *arguments]
    argv += ["--trust-remote-code"] if trust_remote_code else []
    env = {"VLLM_NO_USAGE_STATS": "1"}
    return Server(engine="vllm", argv=tuple(argv), name=name, host=host, port=port, env=env)


def has_transformers_server() -> bool:
    """Return whether ``transformers serve`` and what it needs are installed here."""
    parts = ("transformers.cli.serve", *_SERVING)
    try:
        return all(importlib.util.find_spec(part) for part in parts)
    except ModuleNotFoundError:
        return False


def transformers(folder: Path, *, host: str, port: int, trust_remote_code: bool) -> Server:
    """Return transformers' server. It knows the model by its folder, and loads it when it starts (``force-model``)."""
    options = {"--host": host, "--port": str(port), "--dtype": weights_dtype(folder), "--log-level": "info"}
    argv = [sys.executable, "-P", "-c", _SERVE, "serve", str(folder), *(p for pair in options.items() for p in pair)]
    argv += ["--trust-remote-code"] if trust_remote_code else []
    return Server(
        engine="transformers",
        argv=tuple(argv),
        name=str(folder),
        host=host,
        port=port,
        env={"HF_HUB_OFFLINE": "1"},
    )


def check_port(host: str, port: int) -> None:
    """Raise StageError if a port can't be listened on, before a model is loaded in vain."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise StageError(f"{host}:{port} can't be listened on: {error.strerror}", fix="--port N, or --host") from error


@contextmanager
def serving(
    server: Server, log: Path, *, startup_seconds: float, poll: Callable[[str], None]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, yield its process once it answers, and end all of it with the block.

    Args:
        server: What is to be served.
        log: The server's output.
        startup_seconds: How long it may take to load.
        poll: Called about twice a second with what is waited for.

    Raises:
        StageError: It ended, or did not answer in time; the message holds its last lines.
    """
    argv = [sys.executable, "-m", "sft.adapters.os.guard", *server.argv]
    with started(argv, log=log, env=server.env) as process:
        began = time.monotonic()
        while not _answers(server):
            waited = time.monotonic() - began
            if process.poll() is not None:
                raise ended(process, server, log)
            if waited > startup_seconds:
                message = f"{server.engine} did not answer in {startup_seconds:.0f} s; its last lines:\n{tail(log)}"
                raise StageError(message, fix="a smaller model, or a faster machine")
            poll(f"{server.engine} loads the model, {waited:.0f} s")
            time.sleep(_POLL_SECONDS)
        yield process


def ended(process: subprocess.Popen[bytes], server: Server, log: Path) -> StageError:
    """Return why a server is not there any more."""
    wait_for_last_lines(process)
    message = f"{server.engine} {describe_exit(process.returncode)}; its last lines:\n{tail(log)}"
    return StageError(message, fix="mend what it says, or give eval.vllm.python=PYTHON for vLLM")


def _answers(server: Server) -> bool:
    """Return whether the server answers as this one: with vLLM it names the model."""
    asks_health = server.engine == "transformers"  # its list of models is that of the hub's cache
    url = f"{server.address.removesuffix('/v1')}/health" if asks_health else f"{server.address}/models"
    try:
        key = os.environ.get("VLLM_API_KEY")
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as response:
            content = response.read(_MOST_BYTES)
    except (OSError, HTTPException):
        return False
    if asks_health:
        return True
    try:
        return any(model["id"] == server.name for model in json.loads(content)["data"])
    except (ValueError, LookupError, TypeError):
        return False
