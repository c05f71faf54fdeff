"""Runs a program that is not ours so that nothing of it is left: ``python -m sft.adapters.os.guard PROGRAM ARGUMENT…``.

Such a program may start processes of its own, as vLLM's server does for its engine. They end when it ends, when this
process is asked to end (SIGTERM), and when the process that started this one ends, however it ends. This process is the
last to go: then everything that they held is free, the memory of a GPU included. Standard library only; without Linux
only the process group is ended (`sft.adapters.os.process`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

from sft.adapters.os.child import PARENT_PID

GRACE_SECONDS = 8.0
"""How long the program may take to end after SIGTERM: less than `sft.adapters.os.process.TERMINATE_SECONDS`."""
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main() -> None:
    """Run the program to its end.

    Raises:
        SystemExit: With its status, as a shell gives it.
    """
    signal.signal(signal.SIGTERM, _end)
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
    program = subprocess.Popen(sys.argv[1:])
    parent = int(os.environ.get(PARENT_PID, os.getppid()))
    if hasattr(os, "pidfd_open"):
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    status = 1
    try:
        status = program.wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if program.poll() is None:
            program.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(GRACE_SECONDS)
        _kill_descendants()
    raise SystemExit(status if status >= 0 else 128 - status)


def _end(_signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _end_with(process: int) -> None:
    """End everything at once when a process ends."""
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(process)], [], [])
    _kill_descendants()
    os._exit(1)


def _kill_descendants() -> None:
    """Kill every descendant and wait until the last is gone: one whose parent ends becomes a child of this process."""
    while children := _children():
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _children() -> list[int]:
    """Return the ids of this process's children (proc_pid_stat(5): the second field after the name is the parent)."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                children.append(int(stat.parent.name))
    return children


if __name__ == "__main__":
    main()
