"""What every artifact is, and how its digest is made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sft.files import inode, list_files, sha256_file

MANIFEST_NAME = "manifest.json"
LOGS_NAME = "logs"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What every artifact has.

    Attributes:
        root: The folder that holds it. Not part of its identity.
        digest: See `sft.artifacts`; empty until the store publishes it.
    """

    root: Path
    digest: str = ""

    @classmethod
    def kind(cls, name: str) -> type[Artifact]:
        """Return the kind of artifact that a manifest names.

        Raises:
            KeyError: There is none of that name.
        """
        return {kind.__name__: kind for kind in cls.__subclasses__()}[name]


def hash_files(root: Path, known: Mapping[tuple[int, int], str] | None = None) -> dict[str, str]:
    """Return relative POSIX path -> sha256 of every file under `root`, sorted, as an artifact's digest counts them.

    Args:
        root: The artifact's folder.
        known: Digests by inode, of files that were hashed already.
    """
    known = known or {}
    return {
        relative: known.get(inode(root / relative)) or sha256_file(root / relative)
        for relative in list_files(root)
        if relative != MANIFEST_NAME and not relative.startswith(f"{LOGS_NAME}/")
    }


def digest_of(files: dict[str, str]) -> str:
    """Return the artifact digest of hashed files; see the module's docstring."""
    lines = "".join(f"{sha}  {name}\n" for name, sha in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
