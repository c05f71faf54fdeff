"""Compiled layers (`training.compile: regional`) against those that are not: samples a second, and what it costs first.

    SFT_TEST_DATA=… python benchmarks/compile.py [--rounds 2] [--samples 320] [--precision fp32]

The 8-million-parameter model of `training.py`, its samples, batch and settings, each trained by ``sft run``. Rounds
are interleaved; the best of each side counts. A side's speed is that of its median step, without those in which
something is compiled. The compiling side of the first round finds nothing that was compiled before, later ones what it
has left.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from training import BATCH_SIZE, WARM_UP_STEPS, prepare, sft_side

from sft.adapters.os.machine import cpu_computes_bf16

MODES = ("none", "regional")


def trained(folder: Path, precision: str, mode: str) -> list[dict[str, Any]]:
    """Return the rows of an epoch's metrics."""
    argv = [*sft_side(folder, precision, f"training.compile={mode}").argv, "--until", "train"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
    with tempfile.TemporaryDirectory() as cwd:
        done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        [file] = Path(cwd).glob("runs/store/train/*/logs/metrics.jsonl")
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def samples_per_second(rows: list[dict[str, Any]]) -> float:
    """Return the speed of the median step in which nothing was compiled."""
    seconds = [row["seconds"] for row in rows[WARM_UP_STEPS:] if "compile_seconds" not in row]
    return float(BATCH_SIZE / statistics.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=320)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16" if cpu_computes_bf16() else "fp32")
    options = parser.parse_args()
    print(f"python benchmarks/compile.py --rounds {options.rounds} --samples {options.samples} ({options.precision})")
    speeds: dict[str, list[float]] = {mode: [] for mode in MODES}
    compile_seconds, losses = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.samples)
        for _ in range(options.rounds):
            for mode in MODES:
                rows = trained(folder, options.precision, mode)
                speeds[mode].append(samples_per_second(rows))
                losses[mode] = [row["loss"] for row in rows]
                if mode == "regional":
                    compile_seconds.append(sum(row.get("compile_seconds", 0) for row in rows))
    apart = max(abs(one - other) for one, other in zip(*losses.values(), strict=True))
    plain, compiled = (max(speeds[mode]) for mode in MODES)
    print(f"not compiled        {plain:.2f} samples/s")
    print(f"compiled            {compiled:.2f} samples/s")
    print(f"compiled / not      {compiled / plain:.2f}")
    print(f"to compile          {', '.join(f'{seconds:.0f}' for seconds in compile_seconds)} s, a round each")
    print(f"losses apart        {apart:.1e}")


if __name__ == "__main__":
    main()
