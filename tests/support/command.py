"""The real command line in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    status: int
    out: str
    err: str


def sft(*arguments: str, cwd: Path, **environment: str) -> Answer:
    """Runs ``sft`` to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "sft", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Starts ``sft``; its lines can be read as they come."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "sft", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def records(root: Path) -> list[dict[str, Any]]:
    """Every run.json under a run root, oldest run first."""
    paths = sorted(root.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def steps(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A record's steps by name."""
    return {step["name"]: step for step in record["steps"]}
