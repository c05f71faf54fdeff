"""Owns the parent's half of a supervised process: start it in a group of its own, watch it, terminate it.

No child outlives its parent: an interrupt terminates the group, and a child notices that its parent was killed
(`sft.adapters.os.child.die_with_parent`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sft.adapters.os.child import PARENT_PID
from sft.errors import StageError
from sft.files import write_json
from sft.logs import longest_secret
from sft.redaction import redact

TERMINATE_SECONDS = 15.0
"""How long a group may take to end after SIGTERM before SIGKILL."""
LOG = "log.txt"
"""What a child module's folder calls its output."""
FREE_SPACE = "free space, then repeat the command"
_NO_SPACE = ("No space left on device", "File too large", "Disk quota exceeded", "database or disk is full")
_FULL_BYTES = 64 << 10
"""Less than the error that a child would have left."""
_LAST_LINES_SECONDS = 5.0
_LONGEST_LINE = 1 << 16
"""Bytes after which a line of output is taken in parts."""


def supervise(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    without: Collection[str] = (),
    poll: Callable[[], None] = lambda: None,
    poll_seconds: float = 0.25,
) -> int:
    """Run `argv` to its end and return its exit status; negative if a signal ended it.

    Args:
        argv: Program and arguments.
        log: File to which standard output and error are appended.
        env: Added to this process's environment.
        without: Variables of this process that it doesn't get.
        poll: Called about every `poll_seconds` while the process runs; an exception of it terminates the process.
    """
    with started(argv, log=log, env=env, without=without) as process:
        while True:
            try:
                return process.wait(timeout=poll_seconds)
            except subprocess.TimeoutExpired:
                poll()


@contextmanager
def started(
    argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, without: Collection[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `argv` in a process group of its own, which ends with the block.

    Args:
        argv: Program and arguments.
        log: File to which standard output and error are appended.
        env: Added to this process's environment.
        without: Variables of this process that it doesn't get.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # A child, and its children, import nothing from the working folder, where a stranger's `random.py` may lie.
    inherited = {name: value for name, value in os.environ.items() if name not in without}
    environment = {**inherited, **(env or {}), "PYTHONSAFEPATH": "1", PARENT_PID: str(os.getpid())}
    output = log.open("ab", buffering=0)
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except BaseException:
        output.close()
        raise
    # What a library prints past Python's own streams, or a grandchild prints, is masked here.
    copier = threading.Thread(target=_copy_masked, args=(process.stdout, output), daemon=True)
    copier.start()
    try:
        yield process
    finally:
        _end_group(process)
        copier.join(_LAST_LINES_SECONDS)  # a process that left the group may hold the pipe open


def wait_for_last_lines(process: subprocess.Popen[bytes]) -> None:
    """Return once all that a process has printed, which has ended, is in its log."""
    deadline = time.monotonic() + _LAST_LINES_SECONDS
    while process.stdout and not process.stdout.closed and time.monotonic() < deadline:
        time.sleep(0.02)


def _copy_masked(pipe: IO[bytes], log: IO[bytes]) -> None:
    """Append a process's output to a log, line by line, without its secrets, and close both.

    On a full disk the lines are lost and the process goes on: it says itself what it can't write.
    """
    with pipe, log:
        rest = ""
        while line := pipe.readline(_LONGEST_LINE):
            text = redact(rest + line.decode("utf-8", errors="surrogateescape"))
            # A line so long is taken in parts; a secret that begins in one ends in the next.
            kept = 0 if text.endswith("\n") else min(len(text), longest_secret())
            text, rest = text[: len(text) - kept], text[len(text) - kept :]
            _append(log, text)
        _append(log, rest)


def _append(log: IO[bytes], text: str) -> None:
    with contextlib.suppress(OSError):
        log.write(text.encode("utf-8", errors="surrogateescape"))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=TERMINATE_SECONDS)
    _signal_group(process.pid, signal.SIGKILL)  # what the leader has left in its group, too
    process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def run_module(
    module: str,
    request: Mapping[str, Any],
    *,
    folder: Path,
    what: str,
    env: Mapping[str, str] | None = None,
    without: Collection[str] = (),
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run a child module (see `sft.adapters.os.child.main`) on a request and return its result.

    Args:
        module: Dotted name of a module that ends in `child.main`.
        request: JSON-able arguments.
        folder: Private folder for request, result and ``log.txt``.
        what: What the child does, for messages: "tokenizing".
        env: Added to this process's environment.
        without: Variables of this process that it doesn't get.
        poll: Called while it works.

    Raises:
        StageError: The child failed; the message holds the child's own error and names the log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in ("result.json", "error.json"):
        (folder / stale).unlink(missing_ok=True)
    write_json(folder / "request.json", request)
    status = supervise(module_command(module, folder), log=folder / LOG, env=env, without=without, poll=poll)
    if status == 0 and (folder / "result.json").exists():
        result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return result
    raise module_failure(folder, status, what=what)


def guarded(argv: Sequence[str]) -> list[str]:
    """Return what runs a program that is not ours so that nothing of it is left (`sft.adapters.os.guard`)."""
    return [sys.executable, "-P", "-m", "sft.adapters.os.guard", *argv]


def module_command(module: str, folder: Path) -> list[str]:
    """Return what runs a child module on the request in its folder."""
    return [sys.executable, "-P", "-m", module, str(folder)]


def module_failure(folder: Path, status: int, *, what: str) -> StageError:
    """Return why a child module failed: its own error, or what is known of its end."""
    log = folder / LOG
    if (folder / "error.json").exists():
        return child_error(json.loads((folder / "error.json").read_text(encoding="utf-8")), what=what, log=log)
    if shutil.disk_usage(folder).free < _FULL_BYTES:
        return StageError(f"{what} failed: {os.strerror(errno.ENOSPC)}: {folder}", fix=FREE_SPACE, log=log)
    return StageError(f"{what} {describe_exit(status)} and left no error; its last lines:\n{tail(log)}", log=log)


def child_error(error: Mapping[str, Any], *, what: str, log: Path) -> StageError:
    """Return the error that a child has written, as a person reads it."""
    message = error["message"] if error.get("expected") else f"{error['type']}: {error['message']}"
    fix = error.get("fix")
    if fix is None and is_no_space(message):
        message, fix = message.partition("\n")[0], FREE_SPACE
    elif fix is None and is_no_space(str(error.get("traceback") or "")):  # some libraries raise another error of it
        message, fix = f"{message} ({os.strerror(errno.ENOSPC)})", FREE_SPACE
    return StageError(f"{what} failed: {message}", fix=fix, log=log)


def is_no_space(message: str) -> bool:
    """Return whether an error says that there is no room on a disk."""
    return any(words in message for words in _NO_SPACE)


def status_of_guarded(status: int) -> int:
    """Return a guarded program's exit status as subprocess has it: the guard, as a shell, says 128 + n of signal n."""
    return 128 - status if status > 128 else status


def describe_exit(status: int) -> str:
    """Return an exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    why = " (perhaps out of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{why}"


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log file, indented."""
    with log.open(encoding="utf-8", errors="replace") as file:
        return "".join(f"    {line.rstrip()}\n" for line in deque(file, maxlen=lines)).rstrip("\n")
