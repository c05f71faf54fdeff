"""Every benchmark still runs, at its smallest size; what it measures is for a quiet machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALLEST: dict[str, tuple[list[str], str]] = {
    "compile": (["--rounds", "1", "--samples", "128"], "losses apart"),
    "dataset": (["500"], "rows"),
    "evaluation": (["--rounds", "1", "--questions", "8"], "sft / the faster lm-eval:"),
    "generation": (["--rounds", "1", "--samples", "3", "--max-new-tokens", "8"], "3 of 3 answers are the same"),
    "gpu_report": (["--seconds", "600", "--out", "report.json"], "| utilisation |"),
    "packing": (["--rounds", "1", "--steps", "1", "--samples", "4"], "| chats by 4 | bf16 |"),
    "states": (["--rounds", "1", "--hidden", "64", "--steps", "6"], "times the stall"),
    "startup": (["--rounds", "1"], "first step"),
    "tokenizing": (["60"], "process_data"),
    "verdicts": (["--pairs", "4"], "| answers |"),
}
"""Arguments, and what is printed at the end."""
PROCESSES = ("evaluation", ["--processes", "2", "--rounds", "1", "--questions", "16"], "the same to the last digit")
NOT_HERE = {
    "gpu_runs": "gpu_report runs its parts",
    "gpu_trainings": "gpu_report runs its parts",
    "first_model": "needs a real model; tests/e2e/test_init.py runs the same commands",
    "kills": "runs the quickstart three times; tests/integration/test_training_faults.py kills a training",
    "memory": "trains twelve times at sizes that fill memory",
    "quickstart": "tests/e2e/test_quickstart.py runs the same commands",
    "scale": "tests/integration/test_scale.py compares its tables with docs/scale.md",
    "simulated_memory": "tests/integration/test_memory_simulated.py runs it",
    "sweep": "trains five times; tests/e2e/test_sweep.py runs such a sweep",
    "training": "needs TRL, which is no dependency",
    "utilisation": "needs a GPU",
}


def test_every_benchmark_is_run_or_says_why_not() -> None:
    assert {file.stem for file in (ROOT / "benchmarks").glob("*.py")} == SMALLEST.keys() | NOT_HERE.keys()


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@pytest.mark.skipif("SFT_TEST_DATA" not in os.environ, reason="SFT_TEST_DATA names the shared data")
@pytest.mark.parametrize(("name", "arguments", "said"), [*((name, *how) for name, how in SMALLEST.items()), PROCESSES])
def test_a_benchmark_runs(
    name: str, arguments: list[str], said: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name == "generation":
        arguments = [*arguments, "--wheels", str(request.config.cache.mkdir("smollm2"))]  # type: ignore[union-attr]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert said in done.stdout
