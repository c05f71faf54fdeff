"""From `sft run` to the first optimizer step of the tiny model, and where the time goes.

    python benchmarks/startup.py [--rounds 3]

Runs the quickstart without evaluation and registry in an empty folder, and watches for what each part leaves behind.
Prints the median of the rounds. Asked for: at most 12 s on 2 cores.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = ["eval=none", "registry=none", "dataset.max_samples=500", "training.num_epochs=1"]
STAGING = "runs/store/.staging/train-*/logs"
MARKS = {
    "interpreter, configuration, dataset": "runs/store/dataset/*/manifest.json",
    "model made from nothing": "runs/store/model/*/manifest.json",
    "tokenizing": "runs/store/tokenize/*/manifest.json",
    "torchrun's imports": f"{STAGING}/stacks/rank_1.txt",
    "ranks' imports, process group, model, FSDP": f"{STAGING}/resumed.json",
    "first step": f"{STAGING}/metrics.jsonl",
}
ASKED_SECONDS = 12


def measured() -> dict[str, float]:
    """Seconds from the start until each mark is there."""
    with tempfile.TemporaryDirectory() as folder:
        seen: dict[str, float] = {}
        began = time.monotonic()
        argv = [sys.executable, "-m", "sft", "run", "quickstart", *SETTINGS]
        with subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL) as run:
            while run.poll() is None:
                for name, pattern in MARKS.items():
                    if name not in seen and any(Path(folder).glob(pattern)):
                        seen[name] = time.monotonic() - began
                time.sleep(0.01)
        if run.returncode != 0 or len(seen) != len(MARKS):
            raise SystemExit(f"the run failed, or was not seen: {seen}")
        return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"python benchmarks/startup.py --rounds {options.rounds}")
    rounds = [measured() for _ in range(options.rounds)]
    before = 0.0
    for name in MARKS:
        at = statistics.median(seen[name] for seen in rounds)
        print(f"{name:<44}{at - before:6.2f} s  (at {at:.2f})")
        before = at
    print(f"ratio to what was asked for: {before / ASKED_SECONDS:.2f} (at most 1)")


if __name__ == "__main__":
    main()
