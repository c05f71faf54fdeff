"""Owns what many modules do with a file: hash it, replace it in one step, put it on the disk. Standard library only."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What writing fails with where there is no room: a full disk, a quota, a limit of this process."""


_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
DOCUMENT_BYTES = 16 << 20
"""Larger than any record, manifest or config; JSON of that size takes hundreds of megabytes when it is parsed."""


class NotADocumentError(ValueError):
    """Something that nobody would have written as a record, a manifest or a config."""


def scheme(uri: str) -> str:
    """Return ``s3`` of ``s3://bucket/key``; empty for a path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""


def local_path(uri: str) -> Path:
    """Return the path of a local uri: ``pvc://claim/data`` is ``/claim/data``, ``~`` the home folder."""
    if scheme(uri) == "pvc":
        return Path("/") / uri[len("pvc://") :]
    return Path(uri[len("file://") :] if scheme(uri) else uri).expanduser()


def read_document(path: Path, max_bytes: int = DOCUMENT_BYTES) -> bytes:
    """Return the bytes of a small file that may have come from others.

    Args:
        path: Of the file.
        max_bytes: What such a file has at most.

    Raises:
        NotADocumentError: It is larger, or a pipe or a device, which is not waited for.
        OSError: It can't be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotADocumentError("is a pipe or a device, not a file")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise NotADocumentError(f"is larger than {max_bytes >> 20} MiB")
    return content


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inode(path: Path) -> tuple[int, int]:
    """Return device and inode, which all names of one file share."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino


def list_files(root: Path) -> list[str]:
    """Return the relative POSIX path of every file under `root`, sorted."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def write_atomically(path: Path, content: bytes, *, is_lasting: bool = False) -> None:
    """Replace a file so that a reader sees either the old content or all of the new one.

    Args:
        path: Of the file.
        content: All of it.
        is_lasting: Whether that holds also after the power was cut at any moment, and the new one lasts from now on.
    """
    partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}")  # pods with one volume may have one process number
    try:
        partial.write_bytes(content)
        if is_lasting:
            sync(partial)
        partial.replace(path)
        if is_lasting:
            sync(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON as `write_atomically` does; a value that JSON doesn't know is written as its text."""
    write_atomically(path, json.dumps(content, indent=1, default=str).encode())


def json_text(content: Any) -> str:
    """Return JSON for other programs, in ASCII, which any terminal or pipe can carry; what is no number is null."""
    plain = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return json.dumps(plain, indent=1)


def path_from_here(path: Path) -> Path:
    """Return a path as a person types it here: relative to the working folder, if it lies there and that is not ``/``.

    Without its first slash, as a pod whose working folder is ``/`` would show it, a path would seem to be another.
    """
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) and here != Path(here.anchor) else path


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are not there, so that they outlast a cut of the power."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Return once the bytes of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
