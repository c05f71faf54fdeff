"""Servers that never end, never begin, or send what nobody asked for: bounded in memory and time, and interruptible."""

from __future__ import annotations

import gzip
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sft.adapters import http, hub
from sft.adapters.http import Patience
from sft.adapters.retry import RetryPolicy
from sft.errors import DataError
from tests.support.command import start

QUICK = Patience(stall_seconds=5, slow_seconds=0.2, retry=RetryPolicy(max_attempts=1, first_wait_seconds=0.01))


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, threading.Event]]:
    """Serve on this machine; gives the address, and an event that is set once somebody asks."""
    is_asked = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_asked.set()
            with suppress(OSError):  # the client has gone
                answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", is_asked
        server.shutdown()
        thread.join()


def begin(handler: BaseHTTPRequestHandler, **headers: str) -> None:
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def drip(handler: BaseHTTPRequestHandler) -> None:
    begin(handler, Content_Length="1000000")
    stopped = threading.Event()
    while not stopped.wait(0.02):
        handler.wfile.write(b"\n")


def endless(handler: BaseHTTPRequestHandler) -> None:
    begin(handler, Content_Type="application/json", X_Repo_Commit="0" * 40)
    while True:
        handler.wfile.write(b'[{"a": 1}, ' * 8192)


def unasked(handler: BaseHTTPRequestHandler) -> None:
    begin(handler, Content_Encoding="gzip")
    handler.wfile.write(gzip.compress(bytes(1 << 26)))


def silent(handler: BaseHTTPRequestHandler) -> None:
    handler.rfile.read(1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (drip, r"less than 64 KiB arrived in 0\.2 s"),
        (endless, r"bytes or more, and dataset\.max_download_bytes=1000000"),
        (unasked, r"the server sends it in the coding gzip, which was not asked for"),
    ],
)
def test_a_download_that_does_not_end_well_is_given_up(
    answer: Callable[[BaseHTTPRequestHandler], None], said: str, tmp_path: Path
) -> None:
    with serving(answer) as (address, _), pytest.raises(DataError, match=said):
        http.download(f"{address}/x.jsonl", tmp_path / "x", max_bytes=10**6, progress=lambda *_: None, patience=QUICK)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_a_hub_whose_answer_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "_ANSWER_BYTES", 64 << 20)
    with serving(endless) as (address, _):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(DataError, match=r"model org/name: the hub's answer takes more than 64 MiB"):
            hub.commit_of("org/name", None, kind="model")


@pytest.mark.long
@pytest.mark.parametrize("answer", [silent, drip, endless])
def test_a_command_that_waits_for_a_server_ends_when_it_is_told_to(
    answer: Callable[[BaseHTTPRequestHandler], None], tmp_path: Path
) -> None:
    with serving(answer) as (address, is_asked):
        process = start("data", "check", f"{address}/x.jsonl", cwd=tmp_path)
        try:
            assert is_asked.wait(60)
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, said.strip()) == (75, "SIGTERM: stopped; the same command continues")
