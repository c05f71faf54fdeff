"""Puts a file of an artifact into another one without writing it again, where the file system has links."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from sft.errors import StageError
from sft.files import sha256_file

_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


def place(source: Path, target: Path, digest: str) -> None:
    """Link a file, or copy it if links can't be.

    Args:
        source: The file.
        target: Where it is to be, too; its folders are made.
        digest: sha256 that a copy must have.

    Raises:
        StageError: The copy is not what was recorded.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)
        if sha256_file(target) != digest:
            raise StageError(f"{source}: is not the file that was trained; its digest is another") from None
