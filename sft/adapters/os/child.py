"""Owns the child's half of a supervised process: it dies with its parent, and writes its error to a file.

A child module ends in ``child.main(handler)`` and is started by `sft.adapters.os.process.run_module`. Heavy
libraries (torch, transformers, lm-eval) are imported only in children, so that the orchestrator stays small
and a sweep of many runs in one process leaks nothing. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sft.errors import SftError
from sft.files import write_json
from sft.logs import mask_streams
from sft.redaction import redact

PARENT_PID = "SFT_PARENT_PID"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent dies, however it dies; without Linux a thread watches.

    `SFT_PARENT_PID` holds the parent's id, so that a parent that died before this call is noticed too.
    """
    expected = int(os.environ.get(PARENT_PID, os.getppid()))
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    else:
        threading.Thread(target=_watch_parent, args=(expected,), daemon=True).start()
    if os.getppid() != expected:
        os.kill(os.getpid(), signal.SIGKILL)


def die_with(process: int) -> None:
    """Make this process kill itself when another process of this machine ends, however it ends, parent or not.

    On Linux that happens at once, through a descriptor of the process; elsewhere a thread looks twice a second.

    Args:
        process: Id of the other process.
    """
    threading.Thread(target=_end_with, args=(process,), daemon=True).start()


def _end_with(process: int) -> None:
    try:
        if hasattr(os, "pidfd_open"):
            select.select([os.pidfd_open(process)], [], [])
        else:
            while True:
                os.kill(process, 0)
                time.sleep(0.5)
    except ProcessLookupError:
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _watch_parent(expected: int) -> None:
    while os.getppid() == expected:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def describe(error: BaseException) -> dict[str, str | None]:
    """Return an exception as the parent reads it, with secrets masked: libraries quote addresses with passwords."""
    return {
        "type": type(error).__name__,
        "message": redact(error.message if isinstance(error, SftError) else str(error)),
        "fix": error.fix if isinstance(error, SftError) else None,
        "expected": "yes" if isinstance(error, SftError) else None,
        "traceback": redact("".join(traceback.format_exception(error))),
    }


def main(handler: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Run `handler` on ``<folder>/request.json``, and write ``result.json`` or ``error.json`` beside it.

    Raises:
        SystemExit: With status 1 if the handler failed.
    """
    die_with_parent()
    mask_streams()
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    try:
        result = handler(request)
    except Exception as error:
        facts = describe(error)
        write_json(folder / "error.json", facts)
        sys.stderr.write(str(facts["traceback"]))
        raise SystemExit(1) from error
    write_json(folder / "result.json", result)
