"""Owns vLLM as a process of its own, in an environment of its own, because its pins conflict with training's.

The server is on the loopback interface, wants a key that nobody else knows, and ends with whoever asked for it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from sft.adapters.os import inherited
from sft.adapters.os.interpreter import answer
from sft.adapters.os.process import describe_exit, started, tail, wait_for_last_lines
from sft.errors import StageError

_VERSION = """\
import importlib.metadata as m, importlib.util as u
names = m.packages_distributions().get("vllm", []) if u.find_spec("vllm") else []
print(*(f"{name} {m.version(name)}" for name in sorted(set(names))), sep=", ")
"""
_POLL_SECONDS = 0.5
_REFUSALS = {400, 401, 403, 404, 410}
_MOST_REFUSALS = 20
_MOST_BYTES = 1 << 20
_SET_HERE = {"VLLM_API_KEY", "VLLM_NO_USAGE_STATS"}


@dataclass(frozen=True, kw_only=True)
class VllmSettings:
    """What is served, and how. Null leaves a choice to vLLM.

    Attributes:
        python: Interpreter of an environment that has vLLM.
        model_dir: The model, in Hugging Face layout.
        dtype: Of the weights, as they are stored; ``auto`` would round fp32 to 16 bits (docs.vllm.ai, engine args).
        max_model_len: Longest prompt and answer, in tokens.
        gpu_memory_utilization: Part of a GPU's memory that vLLM takes.
        tensor_parallel_size: GPUs that share the model.
        enforce_eager: Run without compiled graphs.
        startup_seconds: How long it may take to load.
    """

    python: Path
    model_dir: Path
    trust_remote_code: bool
    dtype: str
    seed: int
    max_model_len: int | None
    gpu_memory_utilization: float | None
    tensor_parallel_size: int
    enforce_eager: bool
    startup_seconds: int

    def argv(self, port: int, name: str) -> list[str]:
        """Return the command of the server. ``-I`` keeps our PYTHONPATH and the working directory out of it."""
        options: dict[str, Any] = {
            "model": self.model_dir,
            "served-model-name": name,
            "host": "127.0.0.1",
            "port": port,
            "dtype": self.dtype,
            "seed": self.seed,
            "tensor-parallel-size": self.tensor_parallel_size,
            "max-model-len": self.max_model_len,
            "gpu-memory-utilization": self.gpu_memory_utilization,
        }
        given = [part for key, value in options.items() if value is not None for part in (f"--{key}", str(value))]
        flags = {"trust-remote-code": self.trust_remote_code, "enforce-eager": self.enforce_eager}
        flags["disable-uvicorn-access-log"] = True
        given += [f"--{key}" for key, is_set in flags.items() if is_set]
        return [str(self.python), "-I", "-m", "vllm.entrypoints.openai.api_server", *given]


@dataclass(frozen=True, kw_only=True)
class VllmServer:
    """A server that answers.

    Attributes:
        address: Up to ``/v1``.
        name: What it calls the model.
        key: What it asks for.
        max_model_len: Longest prompt and answer, in tokens.
    """

    address: str
    name: str
    max_model_len: int
    key: str = field(repr=False)
    process: subprocess.Popen[bytes] = field(repr=False)
    log: Path

    def check(self) -> None:
        """Raise StageError if the server has ended."""
        if self.process.poll() is not None:
            raise _ended(self.process, self.log)


def installed(python: Path) -> str:
    """Return distribution and version of the vLLM in an environment, ``vllm 0.32.0``; empty where it has none.

    Nothing of vLLM is imported, which takes seconds.

    Raises:
        OSError: There is no such program, or it can't be run.
        StageError: It is no interpreter of Python.
        subprocess.TimeoutExpired: It does not answer.
    """
    return answer(python, _VERSION)


@contextmanager
def serving(settings: VllmSettings, log: Path, poll: Callable[[str], None]) -> Iterator[VllmServer]:
    """Start a server, and end it with all its processes when the block ends.

    Args:
        settings: What is served.
        log: The server's output.
        poll: Called about twice a second with what is waited for.

    Raises:
        StageError: vLLM ended, or did not answer in time; the message holds its last lines.
    """
    port, name, key = _free_port(), f"sft-{secrets.token_hex(8)}", secrets.token_hex(32)
    argv = [sys.executable, "-m", "sft.adapters.os.guard", *settings.argv(port, name)]
    # vLLM reports its use to its makers unless it is told not to (docs.vllm.ai, usage stats collection).
    own = {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1"}
    with started(argv, log=log, env=own, without=inherited.changing_numbers(os.environ, own)) as process:
        address = f"http://127.0.0.1:{port}/v1"
        longest = _wait(f"{address}/models", name, key, process, settings.startup_seconds, log, poll)
        yield VllmServer(address=address, name=name, key=key, max_model_len=longest, process=process, log=log)


def own_settings(names: Iterable[str]) -> list[str]:
    """Return the variables of an environment by which vLLM itself is told what to do, in order.

    Some change its numbers, as ``VLLM_ATTENTION_BACKEND`` does; which, differs from version to version.
    """
    return sorted(name for name in names if name.startswith("VLLM_") and name not in _SET_HERE)


def _free_port() -> int:
    """Return a port that was free a moment ago. Whoever takes it first can't answer with the model's name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(url: str, name: str, key: str, process: Any, seconds: int, log: Path, poll: Callable[[str], None]) -> int:
    """Return the longest text of the model once the server names it."""
    began, num_refusals = time.monotonic(), 0
    while True:
        if process.poll() is not None:
            raise _ended(process, log)
        longest, status = _longest(url, name, key)
        if longest is not None:
            return longest
        waited = time.monotonic() - began
        # Once it answers, it has loaded. Whoever else has its port refuses, too, until vLLM ends without it.
        num_refusals += status in _REFUSALS
        if waited > seconds or num_refusals > _MOST_REFUSALS:
            what = f"answers HTTP {status} at {url}" if status in _REFUSALS else f"did not answer in {seconds} s"
            fix = "set eval.vllm.python to an environment with another version of vLLM, or eval.backend=hf"
            raise StageError(
                f"eval.backend=vllm: vLLM {what}; its last lines:\n{tail(log)}",
                fix=fix if status in _REFUSALS else "raise eval.vllm.startup_seconds",
                log=log,
            )
        poll(f"vLLM loads the model, {waited:.0f} s")
        time.sleep(_POLL_SECONDS)


def _longest(url: str, name: str, key: str) -> tuple[int | None, int | None]:
    """Return `max_model_len` of the model of a name, and the status of the answer.

    The first is None if the server does not answer yet, or is another one; the second without an answer.
    """
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as response:
            models = json.loads(response.read(_MOST_BYTES))["data"]
            lengths = (int(model["max_model_len"]) for model in models if model["id"] == name)
            return next(lengths, None), response.status
    except urllib.error.HTTPError as error:
        return None, error.code
    except (OSError, HTTPException, ValueError, LookupError, TypeError, RecursionError):
        return None, None


def _ended(process: subprocess.Popen[bytes], log: Path) -> StageError:
    wait_for_last_lines(process)
    how = describe_exit(process.returncode)
    return StageError(
        f"eval.backend=vllm: vLLM {how}; its last lines:\n{tail(log)}",
        fix="see what it says; eval.vllm has its settings, and eval.backend=hf does without it",
        log=log,
    )
