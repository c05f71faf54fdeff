"""Kills a training at random moments, as often as asked, and compares what comes out with an undisturbed run.

    python benchmarks/kills.py [--kills 100] [--seed 0]

Each run is killed about once on its way (the parent, torchrun or a rank) and started again until it is done. Every one
must end with the weights and the curve of the run that nothing disturbed. Prints a line per finished run and the
counts; exits with 1 at the first difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

SETTINGS = [
    "dataset.max_samples=500",
    "training.num_epochs=2",
    "training.checkpoint_every_steps=1",
    "training.tracking.trackers=[]",
    "registry=none",
    "eval=none",
]


def start(cwd: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "sft", "run", "quickstart", *SETTINGS]
    return subprocess.Popen(argv, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def processes(cwd: Path) -> list[int]:
    """Agent and ranks of a training under `cwd`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            argv = (process / "cmdline").read_bytes().decode()
            if "sft.adapters.instructlab" in argv and str(cwd) in argv:
                found.append(int(process.name))
    return found


def result(cwd: Path) -> tuple[str, list[tuple[int, float, float]]]:
    """Digest of the weights, and step, loss and learning rate of each step."""
    (model,) = cwd.glob("runs/store/train/*/model/model.safetensors")
    rows = [json.loads(line) for line in (model.parents[1] / "logs" / "metrics.jsonl").read_text().splitlines()]
    curve = [(row["step"], row["loss"], row["learning_rate"]) for row in rows]
    return hashlib.sha256(model.read_bytes()).hexdigest(), curve


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    print(f"python benchmarks/kills.py --kills {options.kills} --seed {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        undisturbed.mkdir()
        started = time.monotonic()
        if start(undisturbed).wait() != 0:
            print("the undisturbed run failed")
            return 1
        seconds = time.monotonic() - started
        expected = result(undisturbed)
        print(f"undisturbed: {seconds:.1f} s, {len(expected[1])} steps")
        kills = runs = 0
        while kills < options.kills:
            cwd = Path(folder) / f"run_{runs}"
            cwd.mkdir()
            while True:
                run = start(cwd)
                with suppress(subprocess.TimeoutExpired):
                    if run.wait(moments.uniform(0.2, 1.3) * seconds) == 0:
                        break
                    continue  # a rank was killed before, and the run has said so
                victims = [run.pid, *processes(cwd)]
                with suppress(ProcessLookupError):
                    os.kill(moments.choice(victims), signal.SIGKILL)
                    kills += 1
                if run.wait(120) == 0:
                    break
                deadline = time.monotonic() + 10
                while processes(cwd) and time.monotonic() < deadline:
                    time.sleep(0.05)
                if left := processes(cwd):
                    print(f"run {runs}: processes {left} outlived their run")
                    return 1
            runs += 1
            if result(cwd) != expected:
                print(f"run {runs}: DIFFERENT after {kills} kills in all")
                return 1
            print(f"run {runs}: the same weights and curve; {kills} kills so far", flush=True)
    print(f"{kills} kills, {runs} runs: every one ended with the weights and the curve of the undisturbed run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
