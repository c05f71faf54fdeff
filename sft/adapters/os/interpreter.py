"""Owns questions to another environment's interpreter of Python, which a person has named."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sft.adapters.os.process import describe_exit
from sft.errors import StageError

_ASK_SECONDS = 60


def answer(python: Path, code: str) -> str:
    """Return what an interpreter prints for some code. ``-I`` keeps our PYTHONPATH and the working folder out of it.

    Raises:
        OSError: There is no such program, or it can't be run.
        StageError: It is no interpreter of Python.
        subprocess.TimeoutExpired: It does not answer.
    """
    command = [str(python), "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
    if done.returncode:
        raise StageError((done.stderr.strip().splitlines() or [describe_exit(done.returncode)])[-1])
    return done.stdout.strip()


def why_not(error: OSError | subprocess.TimeoutExpired | StageError, what: str) -> str:
    """Return why an interpreter gave no answer, as a rule that its setting breaks.

    Args:
        error: What `answer` raised.
        what: What was asked for: ``vLLM``.
    """
    if isinstance(error, OSError):
        return f"can't be run ({error.strerror}; relative paths start at {Path.cwd()})"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"does not say in time which {what} it has"
    return f"is no interpreter of Python 3 ({error.message})"
