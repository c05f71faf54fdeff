"""Owns what each of our commands sets up in its process: logs, signals, and errors as a person reads them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sft import logs
from sft.errors import Preempted, SftError

INTERRUPTED = 130


def run_command(command: Callable[[], int], *, debug: bool) -> int:
    """Run a command in this process and return its exit status.

    Args:
        command: Does the work and returns an exit status.
        debug: Whether errors keep their traceback.

    Raises:
        SftError: With `debug`.
    """
    logs.configure(debug=debug)
    with interrupted_by(signal.SIGTERM, signal.SIGUSR1):
        try:
            return command()
        except SftError as error:
            if debug:
                raise
            logs.print_error(error)
            return error.exit_code
        except Preempted as stopped:
            logs.print_error(str(stopped))
            return stopped.exit_code
        except KeyboardInterrupt:
            logs.print_error("interrupted; the same command continues")
            return INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: `sft plan … | head`
            return 0


@contextmanager
def interrupted_by(*numbers: signal.Signals, other: Mapping[signal.Signals, Any] | None = None) -> Iterator[None]:
    """End this process's work as Ctrl-C does when one of these signals comes, until the block ends.

    Children are terminated, and the record says so. A training saves its state first.

    Args:
        numbers: Signals that raise KeyboardInterrupt.
        other: Handlers of other signals.
    """
    handlers: dict[signal.Signals, Any] = {**dict.fromkeys(numbers, _interrupt), **(other or {})}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(signum).name)
