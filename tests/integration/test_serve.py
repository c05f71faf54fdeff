"""`sft serve`: real servers that answer OpenAI's API, and that end with the command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sft.adapters import openai_server
from sft.artifacts import ModelArtifact
from tests.support import vllm
from tests.support.command import sft_in_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(*arguments: str, cwd: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Start ``sft serve``, and yield it with its lines once it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "sft", "serve", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    try:
        assert process.stdout
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("curl"):
                break
        yield process, lines
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def asked(address: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{address}/chat/completions", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
        return dict(json.loads(answer.read()))


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_transformers_serves_a_folder_and_ends_with_sigterm(
    tiny_model: ModelArtifact, port: int, tmp_path: Path
) -> None:
    if not openai_server.has_transformers_server():
        pytest.skip("no `transformers serve` here: pip install 'transformers[serving]'")
    with serving(str(tiny_model.model_dir), "--port", str(port), cwd=tmp_path) as (process, lines):
        address = f"http://127.0.0.1:{port}/v1"
        assert f"ready: {address} (transformers); Ctrl-C ends it" in lines, lines
        body = json.loads(lines[-1].partition("-d '")[2].rstrip("'"))
        answer = asked(address, {**body, "max_tokens": 4})
        assert answer["choices"][0]["message"]["role"] == "assistant"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    deadline = time.monotonic() + 30
    while is_open(port) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not is_open(port)


@pytest.mark.long
def test_vllm_serves_where_its_interpreter_is_given(tiny_model: ModelArtifact, port: int, tmp_path: Path) -> None:
    python = vllm.environment(tmp_path / "vllm")
    settings = [f"eval.vllm.python={python}", "--port", str(port)]
    with serving(str(tiny_model.model_dir), *settings, cwd=tmp_path, VLLM_API_KEY="my-own-key") as (process, lines):
        assert f"ready: http://127.0.0.1:{port}/v1 (vllm); Ctrl-C ends it" in lines, lines
        assert "note: it wants the key that VLLM_API_KEY holds, as a bearer token" in lines
        assert "my-own-key" not in "\n".join(lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    assert not is_open(port)


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(tiny_model: ModelArtifact, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        answer = sft_in_process("serve", str(tiny_model.model_dir), "--port", taken, cwd=tmp_path)
    assert (answer.status, f"127.0.0.1:{taken} can't be listened on" in answer.err) == (1, True), answer.err


def test_without_an_engine_it_says_what_to_install(
    tiny_model: ModelArtifact, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_server, "has_transformers_server", lambda: False)
    answer = sft_in_process("serve", str(tiny_model.model_dir), "--port", str(port), cwd=tmp_path)
    assert (answer.status, "pip install 'transformers[serving]'" in answer.err) == (1, True), answer.err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.seed=1"], "training.seed=1: is not for `sft serve`"),
        (["model.trust_remote_code=yes"], "model.trust_remote_code=yes: is not for `sft serve`"),
        (["eval.vllm.python="], "eval.vllm.python=: is not for `sft serve`"),
        (["eval.vllm.python=/nowhere/python"], "eval.vllm.python=/nowhere/python: can't be run"),
        ([f"eval.vllm.python={sys.executable}"], "has no vLLM"),
    ],
)
def test_a_setting_that_can_not_be_is_refused(
    settings: list[str], message: str, tiny_model: ModelArtifact, port: int, tmp_path: Path
) -> None:
    answer = sft_in_process("serve", str(tiny_model.model_dir), "--port", str(port), *settings, cwd=tmp_path)
    assert (answer.status, message in answer.err) == (2, True), answer.err


def test_other_machines_are_let_in_only_if_that_is_asked_for_and_then_said() -> None:
    server = openai_server.Server(engine="vllm", argv=(), name="m", host="0.0.0.0", port=1, env={})
    assert server.address == "http://127.0.0.1:1/v1"
    assert openai_server.Server(engine="vllm", argv=(), name="m", host="::1", port=1, env={}).address == (
        "http://[::1]:1/v1"
    )
