"""What a destination is told and what it answers. ``s3``, ``oci`` and ``hub`` each have one function, ``upload``.

All work in a child process, which an interrupt ends at once, and all may be repeated: what has arrived already is found
and not sent again. What has arrived is compared with the record before a uri is given back.
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

RETRY_HINT = "earlier stages are done, the same command goes on where this one stopped"
_MIB = 1 << 20
_TOLD_EVERY_SECONDS = 0.5
_SENT = "sent"

Told = Callable[[str], None]
"""Takes what is being done now, for a person."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A model that is to be somewhere else.

    Attributes:
        host: Bucket, registry or organization.
        path: Prefix, repository or name there.
        tag: Of an OCI artifact; None = the version's label.
        folder: The model's folder.
        files: sha256 of each file in it by its relative path, in the order in which they appear at the destination: who
            sees the last one sees all.
        digest: sha256 that stands for all files.
        name: Of the model, for a person.
        version: Its label.
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
        """What keeps models apart where one name is for many."""
        return self.digest[:16]

    def file(self, name: str) -> Path:
        return Path(self.folder, name)

    def size(self, name: str) -> int:
        return self.file(name).stat().st_size


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """A model that is somewhere else.

    Attributes:
        uri: Of these very files: what is uploaded later has another one.
        note: What was done, for a person.
    """

    uri: str
    note: str


class Sent:
    """The child's count of bytes under way, which the parent reads from a file.

    Attributes:
        num_bytes: Sent by this try.
    """

    def __init__(self, folder: Path) -> None:
        self.num_bytes = 0
        self._file = folder / _SENT
        self._lock = threading.Lock()
        self._told_at = 0.0

    def add(self, num_bytes: int) -> None:
        """Counts; any thread may call it."""
        with self._lock:
            self.num_bytes += num_bytes
            if time.monotonic() - self._told_at >= _TOLD_EVERY_SECONDS:
                self._told_at = time.monotonic()
                self._file.write_text(str(self.num_bytes), encoding="utf-8")


def run(module: str, upload: Upload, *, uri: str, folder: Path, told: Told) -> Uploaded:
    """Runs the child of a destination.

    Args:
        module: The destination's.
        upload: The model.
        uri: Where it goes, for messages.
        folder: For the child's request, result and log, and for what it must know after a kill.
        told: Told how far it is.

    Raises:
        StageError: The destination refused, can't be reached, or something else has arrived.
    """
    sent, total = folder / _SENT, sum(map(upload.size, upload.files)) / _MIB
    sent.unlink(missing_ok=True)

    def poll() -> None:
        count = sent.read_text(encoding="utf-8") if sent.exists() else ""
        told((f"{int(count) / _MIB:,.1f} MiB sent, " if count else "") + f"{total:,.1f} MiB in all")

    result = run_module(
        module,
        {"upload": asdict(upload), "folder": str(folder)},
        folder=folder,
        what=f"uploading to {uri}",
        poll=poll,
    )
    return Uploaded(**result)


def other_content(upload: Upload, name: str, digest: str) -> StageError:
    """That a file is there, but with other bytes: damaged on its way, or on this side since it was recorded.

    Args:
        upload: The model.
        name: The file.
        digest: What it has there.
    """
    recorded, file = upload.files[name], upload.file(name)
    if (here := sha256_file(file)) != recorded:
        message = f"{file}: changed after it was packaged: its sha256 is {here}, recorded is {recorded}"
        return StageError(
            message, fix="`sft verify` names every such file; remove the package's folder to make it anew"
        )
    message = f"{name}: something else has arrived: its digest there is {digest}, recorded is {recorded}"
    return StageError(message, fix="the same command sends it again")
