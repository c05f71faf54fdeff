"""Real servers over a folder, rclone's: S3, which checks signatures, and FTP, which wants a password."""

from __future__ import annotations

import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY_ID, SECRET = "sft-test-key", "sft-test-secret"
_FRESH = ["--dir-cache-time", "0"]  # tests change files behind its back


@contextmanager
def s3(folder: Path, certificate: tuple[Path, Path] | None = None, *, written: bool = False) -> Iterator[str]:
    """Serves a folder, its subfolders as buckets; gives the endpoint.

    Args:
        folder: What is served.
        certificate: Files of certificate and key, for TLS.
        written: Whether clients write, and no test behind their back: without a cache of folders, rclone 1.75.2 is at
            work for every folder that was written to, and takes seconds for an answer.
    """
    tls = ["--cert", str(certificate[0]), "--key", str(certificate[1])] if certificate else []
    with _serving("s3", folder, ["--auth-key", f"{KEY_ID},{SECRET}", *tls, *([] if written else _FRESH)]) as address:
        yield f"{'https' if certificate else 'http'}://{address}"


@contextmanager
def ftp(folder: Path) -> Iterator[str]:
    """Serves a folder; gives its uri, with name and password."""
    with _serving("ftp", folder, ["--user", KEY_ID, "--pass", SECRET, *_FRESH]) as address:
        yield f"ftp://{KEY_ID}:{SECRET}@{address}"


@contextmanager
def _serving(protocol: str, folder: Path, options: list[str]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    rclone = Path(sysconfig.get_path("scripts")) / "rclone"
    command: list[str | Path] = [
        rclone,
        "serve",
        protocol,
        "--addr",
        address,
        "--vfs-cache-mode",
        "off",
        *options,
        folder,
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(address, process)
            yield address
        finally:
            process.terminate()


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
