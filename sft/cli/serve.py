"""`sft serve`: the model of a run behind OpenAI's API, by vLLM or transformers, until it is asked to end."""

from __future__ import annotations

import ipaddress
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sft.adapters import openai_server
from sft.adapters.evaluation import vllm_server
from sft.adapters.openai_server import Server
from sft.errors import ConfigError, Problem, StageError
from sft.progress import Progress
from sft.runner.run_models import find_model
from sft.scratch import scratch

_TRUST, _PYTHON = "model.trust_remote_code", "eval.vllm.python"
_STARTUP_SECONDS = 1800.0
_POLL_SECONDS = 0.5
_INSTALL = "pip install 'transformers[serving]', or eval.vllm.python=PYTHON of an environment with vLLM"


def execute(name: str, overrides: Sequence[str], *, host: str, port: int) -> int:
    """Serve a model until Ctrl-C or SIGTERM, and end the server with all its processes.

    Args:
        name: A run's folder, a model's folder, or a hub id.
        overrides: ``eval.vllm.python=PYTHON``, ``model.trust_remote_code=true``, or nothing.
        host: Address to listen on.
        port: Port to listen on.

    Raises:
        ConfigError: A setting is wrong.
        DataError: There is no such model.
        StageError: No engine is installed, the port is taken, or the server ended.
    """
    settings = _settings(overrides)
    found = find_model(name)
    if found.trusts_code and settings.get(_TRUST) != "true":
        rule = f"code that comes with the model ran in {found.run}"
        raise ConfigError([Problem(key=_TRUST, rule=rule, suggestion=f"if you trust it, add {_TRUST}=true")])
    progress = Progress()
    for note in found.notes:
        progress.say(note)
    openai_server.check_port(host, port)
    label = found.run.absolute().name if found.run else Path(name).resolve().name  # of `.` it is empty
    server = _server(found.folder, label, settings, host, port)
    with scratch("serve") as folder:
        log = folder / "log.txt"
        try:
            with ExitStack() as stack:
                with progress.stage(f"{server.engine} loads {found.folder}"):
                    started = openai_server.serving(server, log, startup_seconds=_STARTUP_SECONDS, poll=progress.update)
                    process = stack.enter_context(started)
                _say_ready(server, host, progress)
                while process.poll() is None:
                    time.sleep(_POLL_SECONDS)
                raise openai_server.ended(process, server, log)
        except KeyboardInterrupt:  # Ctrl-C, SIGTERM, a closed terminal: it is how a server ends
            return 0


def _settings(overrides: Sequence[str]) -> dict[str, str]:
    settings = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    if others := [text for text in overrides if not _is_read(*text.partition("=")[::2])]:
        rule, suggestion = "is not for `sft serve`", f"only {_TRUST}=true and {_PYTHON}=PYTHON are"
        raise ConfigError([Problem(key=text, rule=rule, suggestion=suggestion) for text in others])
    return settings


def _is_read(key: str, value: str) -> bool:
    return value in {"true", "false"} if key == _TRUST else key == _PYTHON and bool(value)


def _server(folder: Path, label: str, settings: dict[str, str], host: str, port: int) -> Server:
    """Return vLLM's server where its interpreter is given, else transformers' own.

    Raises:
        ConfigError: The interpreter has no vLLM.
        StageError: transformers' own is not installed.
    """
    trusts = settings.get(_TRUST) == "true"
    if given := settings.get(_PYTHON):
        python = Path(given).expanduser()
        try:
            version = vllm_server.installed(python)
        except (OSError, StageError, subprocess.TimeoutExpired) as error:
            raise ConfigError([Problem(key=_PYTHON, value=given, rule=f"can't be run ({error})")]) from error
        if not version:
            fix = f"{python} -m pip install vllm"
            raise ConfigError([Problem(key=_PYTHON, value=given, rule="has no vLLM", suggestion=fix)])
        return openai_server.vllm(folder, label, python=python, host=host, port=port, trust_remote_code=trusts)
    if not openai_server.has_transformers_server():
        raise StageError("there is no engine to serve with", fix=_INSTALL)
    return openai_server.transformers(folder, host=host, port=port, trust_remote_code=trusts)


def _say_ready(server: Server, host: str, progress: Progress) -> None:
    body = json.dumps({"model": server.name, "messages": [{"role": "user", "content": "Hello!"}]})
    progress.say(f"ready: {server.address} ({server.engine}); Ctrl-C ends it")
    header = "-H 'Content-Type: application/json'"
    if server.engine == "vllm" and os.environ.get("VLLM_API_KEY"):
        progress.say("note: it wants the key that VLLM_API_KEY holds, as a bearer token")
    if not _is_loopback(host):
        has_key = server.engine == "vllm" and os.environ.get("VLLM_API_KEY")
        progress.say(f"note: who reaches {host}:{server.port} may use it{', with the key' if has_key else ''}")
    progress.say(f"curl {server.address}/chat/completions {header} -d {shlex.quote(body)}")
    sys.stdout.flush()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
