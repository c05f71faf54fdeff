"""A real S3 server over a folder: rclone's, which checks signatures."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY_ID, SECRET = "sft-test-key", "sft-test-secret"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serves a folder, its subfolders as buckets; gives the endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("rclone")),
        "serve",
        "s3",
        "--auth-key",
        f"{KEY_ID},{SECRET}",
        "--addr",
        f"127.0.0.1:{port}",
    ]
    command += ["--vfs-cache-mode", "off", "--dir-cache-time", "0", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
