"""A real MLflow tracking server on SQLite."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

START_SECONDS = 120.0


@contextmanager
def tracking_server(root: Path) -> Iterator[str]:
    """Serves `root` and yields the tracking URI."""
    root.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    store = ["--backend-store-uri", f"sqlite:///{root}/store.db", "--artifacts-destination", str(root / "artifacts")]
    argv = [sys.executable, "-m", "mlflow", "server", *store, "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "log.txt").open("wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log, cwd=root, env=environment, start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}/health", server, root / "log.txt")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            urlopen(url, timeout=5).close()
            return
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
