"""A command on a terminal of its own, as a person sits before it: keys go in, what is shown comes out."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

INTERRUPT, END = "\x03", "\x04"
"""What Ctrl-C and Ctrl-D send."""
_OWN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A running command and its terminal."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self.shown = ""
        self._descriptor = descriptor
        self._seen = 0

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def type_until_end(self, key: str) -> int:
        """Press a key until the command has ended, and return its status.

        Python can miss a Ctrl-C that comes after a prompt is shown and before it waits for the answer; people press it
        again, too.
        """
        for _ in range(12):
            with suppress(OSError):  # it has ended
                self.type(key)
            with suppress(subprocess.TimeoutExpired):
                return self.end(seconds=5.0)
        raise AssertionError(f"{key!r} doesn't end it:\n{self.shown}")

    def wait_for(self, text: str, seconds: float = 120.0) -> str:
        """Return what is shown between what was waited for last and this text."""
        deadline = time.monotonic() + seconds
        while (place := self.shown.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, f"{text!r} is not shown in:\n{self.shown}"
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"ended without {text!r}:\n{self.shown}")
        between, self._seen = self.shown[self._seen : place], place + len(text)
        return between

    def end(self, seconds: float = 60.0) -> int:
        """Return the exit status once the command has ended, and nothing is left to be shown."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(timeout=max(1.0, deadline - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        if not select.select([self._descriptor], [], [], max(0.0, seconds))[0]:
            return True
        try:
            content = os.read(self._descriptor, 1 << 16)
        except OSError:  # Linux says so once nobody has the terminal open any more
            return False
        self.shown += content.decode(errors="replace")
        return bool(content)


@contextmanager
def at_terminal(*arguments: str, cwd: Path) -> Iterator[Terminal]:
    """Start ``sft`` on a terminal; kill it when the block ends."""
    ours, its = pty.openpty()
    command = [sys.executable, "-c", _OWN_TERMINAL, sys.executable, "-m", "sft", *arguments]
    environment = {**os.environ, "TERM": "dumb", "NO_COLOR": "1"}
    process = subprocess.Popen(
        command, cwd=cwd, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True
    )
    os.close(its)
    try:
        yield Terminal(process, ours)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        os.close(ours)
