"""Whether locks hold in a folder, and among which machines. Standard library only.

A run root is shared by locks of `flock`, which a process loses however it ends, so none is left behind. Linux carries
them to an NFS server, which takes back those of a machine that is gone when its lease ends (nfs(5): ``local_lock``).
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

_MOUNTS = Path("/proc/self/mountinfo")
_LOCAL = {"nolock", "local_lock=all", "local_lock=flock"}


def try_lock(file: IO[str]) -> None:
    """Take and give back a lock.

    Raises:
        OSError: The file system has none, or its server refuses.
    """
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(file, fcntl.LOCK_UN)


def local_lock_option(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the option by which other machines don't see the locks in a folder of a network; None where they do.

    Args:
        folder: Of this machine.
        mounts: Linux's table of mounts (proc(5): mountinfo); where there is none, nothing is known.
    """
    if not mounts.is_file():
        return None
    places = [folder.resolve(), *folder.resolve().parents]
    lines = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    at = {Path(fields[4].replace(r"\040", " ")): fields for fields in lines}  # the last mount hides those below it
    fields = next((at[place] for place in places if place in at), None)
    if fields is None:
        return None
    kind, _, options = fields[fields.index("-") + 1 :][:3]
    stated = {*options.split(","), *fields[5].split(",")}
    return next(iter(sorted(stated & _LOCAL)), None) if kind.startswith("nfs") else None
