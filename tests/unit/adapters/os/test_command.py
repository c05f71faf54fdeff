"""How a command ends: its exit status, and what a person reads of an error, a signal or a closed pipe."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sft.adapters.os.command import ended_by_signals, leave_terminal, run_command
from sft.errors import INTERRUPTED, ConfigError, Detached, GateError, Preempted, Problem, StageError
from tests.support.command import same_logging


@pytest.fixture(autouse=True)
def this_process(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Take back what a command sets up for its process: logging here, masked streams with `capsys`."""
    with same_logging():
        yield


def fail(error: BaseException) -> Any:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (StageError("it broke", fix="mend it"), 1, "error: it broke\n  try: mend it\n"),
        (ConfigError([Problem(key="a.b", rule="is wrong")]), 2, "error: configuration: 1 problem\n  - a.b: is wrong\n"),
        (GateError(["arc.acc"]), 3, "error: the tuned model misses 1 gate"),
        (Preempted("stopped after step 3"), 75, "\nstopped after step 3\n"),
        (Detached("TrainJob x goes on"), 0, "\nTrainJob x goes on\n"),
        (KeyboardInterrupt(), INTERRUPTED, "\ninterrupted; the same command continues\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_has_its_exit_status_and_is_a_sentence(
    error: BaseException, status: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(fail(error), debug=False) == status
    assert capsys.readouterr().err.startswith(shown)


def test_a_command_that_ends_well_keeps_its_status() -> None:
    assert run_command(lambda: 4, debug=False) == 4


def test_debug_lets_an_error_through() -> None:
    with pytest.raises(StageError):
        run_command(fail(StageError("it broke")), debug=True)


def test_a_bug_is_no_error_of_ours_and_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0, debug=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_a_command_with_try_again_and_its_handler_is_gone_afterwards(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def command() -> int:
        os.kill(os.getpid(), number)
        return 0

    assert run_command(command, debug=False) == Preempted.exit_code
    assert signal.getsignal(number) is before


def test_a_signal_that_was_ignored_before_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert run_command(lambda: os.kill(os.getpid(), signal.SIGHUP) or 0, debug=False) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_a_sentence(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(fail(OSError(number, os.strerror(number), "/runs/x")), debug=False) == 1
    assert capsys.readouterr().err.startswith(f"error: {os.strerror(number)}: /runs/x")


def test_another_error_of_the_system_is_a_bug() -> None:
    with pytest.raises(OSError, match="x"):
        run_command(fail(OSError(errno.ENOTDIR, "x")), debug=False)


def test_other_handlers_hold_until_the_block_ends() -> None:
    before, seen = signal.getsignal(signal.SIGUSR2), []
    with ended_by_signals({signal.SIGUSR2: lambda *_: seen.append(1)}):
        os.kill(os.getpid(), signal.SIGUSR2)
    assert seen == [1]
    assert signal.getsignal(signal.SIGUSR2) is before


def test_a_pipe_that_nobody_reads_ends_a_command_quietly() -> None:
    code = (
        "import sys; from sft.adapters.os.command import run_command\n"
        "sys.exit(run_command(lambda: print('text', flush=True) or 5, debug=False))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, b"")


def test_a_terminal_that_has_hung_up_is_left_without_an_error() -> None:
    ours, theirs = os.openpty()
    code = f"input(); from {leave_terminal.__module__} import leave_terminal; leave_terminal(); print('x', flush=True)"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.close(ours)
    child.communicate(b"\n")
    assert child.returncode == 0
