"""Owns whether a process is at work on a run: one at a time writes a run's record."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from sft.progress import Progress

_LOCK = ".lock"
"""In a run's folder, held while a process works on it."""


@contextmanager
def run_lock(folder: Path, progress: Progress) -> Iterator[None]:
    """Let one process at a time write a run's record; another one with the same settings waits, then finds it done."""
    lock = filelock.FileLock(folder / _LOCK)
    has_said = False
    while True:
        try:
            lock.acquire(timeout=1.0 if has_said else 0.0)
            break
        except filelock.Timeout:
            if not has_said:
                progress.say(f"the same run is at work in another process; waiting for it ({folder})")
            has_said = True
    try:
        yield
    finally:
        lock.release()


def is_running(folder: Path) -> bool:
    """Return whether a process works on the run of a folder: a record that says so may be of one that was killed.

    Nothing is written, so that the run may be somebody else's.

    Raises:
        OSError: Its lock can't be read.
    """
    try:
        with (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
