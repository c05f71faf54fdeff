"""Owns what each of our commands sets up in its process: logs, signals, and errors as a person reads them."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sft import logs
from sft.adapters.os.pod_secrets import take_second_spellings
from sft.errors import INTERRUPTED, WAS_INTERRUPTED, Preempted, SftError
from sft.files import NO_SPACE

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What schedulers, clusters and terminals ask a process with to end."""


def run_command(command: Callable[[], int], *, debug: bool) -> int:
    """Run a command in this process and return its exit status.

    Args:
        command: Does the work and returns an exit status.
        debug: Whether errors keep their traceback.

    Raises:
        SftError: With `debug`.
    """
    take_second_spellings()  # before the secrets are looked up that logs must not have
    logs.configure(debug=debug)
    with ended_by_signals():
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
            logs.print_error(WAS_INTERRUPTED)
            return INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: `sft plan … | head`
            return 0
        except OSError as error:
            if debug or error.errno not in NO_SPACE:
                raise
            place = f": {error.filename}" if error.filename else ""
            logs.print_error(SftError(f"{error.strerror}{place}", fix="free some, then repeat the command"))
            return SftError.exit_code


@contextmanager
def ended_by_signals(other: Mapping[signal.Signals, Any] | None = None) -> Iterator[None]:
    """End this process's work when it is asked to, until the block ends: children are ended, and the record says so.

    A training saves its state first. A signal that was ignored when the process began stays so: `nohup sft run …`.

    Args:
        other: Handlers of other signals.
    """
    handlers: dict[signal.Signals, Any] = {**dict.fromkeys(ENDING, _end), **(other or {})}
    before = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_terminal() -> None:
    """Say nothing more to a terminal that has hung up: to print there would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        if stat.S_ISCHR(os.fstat(number).st_mode):  # isatty says no once the terminal has hung up
            os.dup2(nowhere, number)
    os.close(nowhere)


def _end(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        leave_terminal()
    raise Preempted(f"{signal.Signals(number).name}: stopped; the same command continues")
