"""Owns folders that a command needs while it works. Who is killed leaves one behind; the next command removes it.

Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_PREFIX = "sft-"
_LOCK = ".in-use"
"""In each such folder: locked as long as its process lives, in whichever container."""


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """Make a private folder among the machine's temporary ones, until the block ends.

    Args:
        purpose: A word of its name.
    """
    _remove_left_behind(Path(tempfile.gettempdir()))
    folder, lock = _locked_folder(f"{_PREFIX}{purpose}-")
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def _locked_folder(prefix: str) -> tuple[Path, IO[bytes]]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        lock = (folder / _LOCK).open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock.fileno()).st_nlink:
            return folder, lock
        lock.close()  # before it was locked, another command took it for one that was left behind


def _remove_left_behind(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            if folder.parent.lstat().st_uid != os.getuid() or folder.parent.is_symlink() or folder.is_symlink():
                continue
            with folder.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder.parent)
        except OSError:  # in use, or somebody else removes it just now
            continue
