"""Owns files that arrive in pieces, so that a broken or killed download resumes where it stopped.

``<target>.part`` holds what has arrived, ``<target>.part.json`` the version that it is a part of. `target` appears
complete or not at all. After a crash of the machine either may be empty or torn: then all of it arrives again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO

from sft.errors import DataError
from sft.files import write_json
from sft.redaction import redact


class PartialFile:
    """What has arrived of a file.

    Args:
        target: Where the whole file will be.
    """

    def __init__(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._target = target
        self._part = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")

    @property
    def num_bytes(self) -> int:
        """Bytes that have arrived."""
        return self._part.stat().st_size if self._part.exists() else 0

    @property
    def version(self) -> str:
        """Version that the bytes are a part of; empty if there are no bytes, or nobody knows."""
        if not self.num_bytes:
            return ""
        try:
            return str(json.loads(self._note.read_text(encoding="utf-8"))["version"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return ""

    def start(self, version: str) -> None:
        """Keep what has arrived if it is a part of `version`; discard it otherwise, or if `version` is empty."""
        if version and self.version == version:
            return
        self.discard()  # before the note: a kill in between must not make the bytes a part of this version
        write_json(self._note, {"version": version})

    def append(self) -> IO[bytes]:
        """Open the file for what arrives next."""
        return self._part.open("ab")

    def discard(self) -> None:
        """Remove what has arrived."""
        self._part.unlink(missing_ok=True)

    def publish(self) -> None:
        """Move the file, which is complete, to its target."""
        self._part.rename(self._target)
        self._note.unlink(missing_ok=True)


def too_large(url: str, size: int, max_bytes: int) -> DataError:
    """Return the error of a file that is larger than the recipe says one may be."""
    return DataError(
        f"{redact(url)}: {size:,} bytes or more, and dataset.max_download_bytes={max_bytes}",
        fix="raise dataset.max_download_bytes if the size is right",
    )
