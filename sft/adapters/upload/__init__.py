"""What an upload takes and returns, for every destination.

``s3``, ``oci`` and ``hub`` each have the functions ``upload``, and ``check``, which asks before a training whether that
would be allowed.

Each works in a child process, which an interrupt ends at once. Each may be repeated: files that have arrived are not
sent again, and all are compared with the record before a uri is returned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sft.adapters.os.process import run_module
from sft.errors import StageError
from sft.files import sha256_file

RETRY_HINT = "earlier stages are done; repeat the command: it resumes where this one stopped"
_MIB = 1 << 20
_WRITE_SECONDS = 0.5
_COUNT_FILE = "sent"

Update = Callable[[str], None]
"""Shows a person what is being done now."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A model to upload.

    Attributes:
        host: Bucket, registry or organization.
        path: Prefix, repository or name there.
        tag: Tag of an OCI artifact; None = the version's label.
        folder: The model's folder.
        files: sha256 of each file in it by its relative path, in the order in which they appear at the destination: if
            the last one is there, all are.
        digest: sha256 that stands for all files.
        name: Name of the model.
        version: Label of its version.
    """

    host: str
    path: str
    tag: str | None
    folder: str
    files: dict[str, str]
    digest: str
    name: str
    version: str

    @property
    def short_digest(self) -> str:
        """Return the part of the digest that keeps models apart which share a name."""
        return self.digest[:16]

    def file(self, name: str) -> Path:
        return Path(self.folder, name)

    def size(self, name: str) -> int:
        return self.file(name).stat().st_size


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """A model that was uploaded.

    Attributes:
        uri: Address of exactly these files: a later upload has another one.
        note: What was done, as a person reads it.
    """

    uri: str
    note: str


class ByteCounter:
    """Counts the bytes that the child sends, in a file that the parent reads.

    Attributes:
        num_bytes: Bytes that this attempt has sent.
    """

    def __init__(self, folder: Path) -> None:
        self.num_bytes = 0
        self._file = folder / _COUNT_FILE
        self._lock = threading.Lock()
        self._written_at = 0.0

    def add(self, num_bytes: int) -> None:
        """Add bytes that were sent; any thread may call it."""
        with self._lock:
            self.num_bytes += num_bytes
            if time.monotonic() - self._written_at >= _WRITE_SECONDS:
                self._written_at = time.monotonic()
                self._file.write_text(str(self.num_bytes), encoding="utf-8")


def run_child(module: str, upload: Upload, *, uri: str, folder: Path, update: Update) -> Uploaded:
    """Upload a model in a child process.

    Args:
        module: Name of the destination's module.
        upload: The model.
        uri: The destination, for messages.
        folder: Holds the child's request, result and log, and what it must know after a kill.
        update: Shows how much was sent.

    Raises:
        StageError: The destination refuses, can't be reached, or has other bytes than were sent.
    """
    count_file, total = folder / _COUNT_FILE, sum(map(upload.size, upload.files)) / _MIB
    count_file.unlink(missing_ok=True)

    def poll() -> None:
        count = count_file.read_text(encoding="utf-8") if count_file.exists() else ""
        update((f"{int(count) / _MIB:,.1f} MiB sent of " if count else "") + f"{total:,.1f} MiB")

    result = run_module(
        module,
        {"upload": asdict(upload), "folder": str(folder)},
        folder=folder,
        what=f"uploading to {uri}",
        poll=poll,
    )
    return Uploaded(**result)


def check_child(module: str, host: str, path: str, *, uri: str, folder: Path) -> str:
    """Ask a destination in a child process whether a model may be uploaded there; leave nothing there.

    Args:
        module: Name of the destination's module.
        host: As in `Upload`.
        path: As in `Upload`.
        uri: The destination, for messages.
        folder: Holds the child's request, result and log.

    Returns:
        What a person should know; empty if there is nothing.

    Raises:
        StageError: The destination refuses, or can't be reached.
    """
    nothing = Upload(host=host, path=path, tag=None, folder="", files={}, digest="", name="", version="")
    request = {"upload": asdict(nothing), "folder": str(folder), "is_check": True}
    try:
        return str(run_module(module, request, folder=folder, what=f"asking {uri}")["note"])
    except StageError as error:
        fix = (error.fix or "").removesuffix(RETRY_HINT).removesuffix("; ") or "check registry.upload"
        raise StageError(f"registry.upload={uri}: {error.message}", fix=fix) from error


def digest_mismatch(upload: Upload, name: str, digest: str) -> StageError:
    """Return the error for a file that arrived with other bytes: it was damaged on its way, or here after packaging.

    Args:
        upload: The model.
        name: The file.
        digest: Its digest at the destination.
    """
    recorded, file = upload.files[name], upload.file(name)
    if (actual := sha256_file(file)) != recorded:
        message = f"{file}: changed after it was packaged: its sha256 is {actual}, the recorded one is {recorded}"
        return StageError(
            message,
            fix="run `sft verify` to list every such file, then remove the package's folder to package it again",
        )
    message = f"{name}: other bytes have arrived: its digest there is {digest}, the recorded one is {recorded}"
    return StageError(message, fix="repeat the command to send it again")
