"""The memory estimate for GPUs against the sizes of every tensor of a rank's steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]
PROGRAM = Path(__file__).parents[2] / "benchmarks" / "simulated_memory.py"


def test_the_estimate_is_near_what_a_step_takes() -> None:
    argv = [sys.executable, str(PROGRAM), "--layers", "2"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    _command, head, *rows = done.stdout.splitlines()
    assert head.split()[-3:] == ["counted", "estimated", "ratio"]
    ratios = [float(row.split()[-1]) for row in rows]
    assert len(ratios) > 10
    assert all(0.95 < ratio < 1.05 for ratio in ratios), done.stdout
