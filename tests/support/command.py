"""The command line: in a process of its own, or in this one, which saves a second of imports each time.

`sft_in_process` is for what a command does, says and returns. `sft` is for what only a process shows: its exit status,
a traceback, signals, pipes, encodings, what its children print, and what a library reads from the environment when it
is imported. `start` is for a command that is watched or interrupted while it works.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sft.cli import main


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def run(self) -> Path:
        """The run's folder, as the answer names it."""
        [record] = re.findall(r"^record +(\S+)/run\.json$", self.out, re.MULTILINE)
        return Path(record)


def sft(*arguments: str, cwd: Path, **environment: str) -> Answer:
    """Run ``sft`` to its end in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "sft", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def sft_in_process(*arguments: str, cwd: Path, **environment: str) -> Answer:
    """Run ``sft`` to its end in this process.

    Raises:
        Exception: What would be a traceback: an error that is none of ours, or any with ``--debug``.
    """
    out, err = io.StringIO(), io.StringIO()
    if absl := sys.modules.get("absl.logging"):
        # It closes the stream that it met when it was imported, pytest's own, as soon as Hydra sets up logging anew.
        absl.get_absl_handler().python_handler.stream = sys.__stderr__
    with pytest.MonkeyPatch.context() as patch, same_logging(), _captured(out, err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["sft", *arguments])  # Hydra reads it
        patch.setenv("HYDRA_FULL_ERROR", "1")  # set by the command; taken back after it
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            status: Any = main(arguments)
        except SystemExit as end:  # argparse
            status = end.code
    return Answer(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _captured(out: io.StringIO, err: io.StringIO) -> Iterator[None]:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


@contextlib.contextmanager
def same_logging() -> Iterator[None]:
    """Take back what a command sets up for logging."""
    loggers = (logging.getLogger(), logging.getLogger("sft"))
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, handlers, level, propagate in before:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start ``sft`` in a process of its own; its lines can be read as they come."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "sft", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def records(root: Path) -> list[dict[str, Any]]:
    """Return every run.json under a run root, oldest run first."""
    paths = sorted(root.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def steps(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a record's steps by name."""
    return {step["name"]: step for step in record["steps"]}
