"""What a sweep over the four sharding strategies costs, next to four separate cold runs, side by side in one go.

    python benchmarks/sweep.py

The cold runs are the points of ``quickstart_fsdp_sweep``, each in a folder of its own, two before the sweep and two
after it. The budget: at most 0.55 of the four cold runs, and at most 1.1 of the sweep's own training and evaluation. On
one machine HYBRID_SHARD is FULL_SHARD, which a sweep knows and four commands don't; so the ratio to the three cold runs
that differ is printed too. Strategies that end with the same weights share an evaluation: the counts show it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = "quickstart_fsdp_sweep"
STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "HYBRID_SHARD", "NO_SHARD")


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cold = {name: alone(name, root / name) for name in STRATEGIES[:2]}
        sweep = seconds(["run", RECIPE], root / "sweep")
        cold |= {name: alone(name, root / name) for name in STRATEGIES[2:]}
        again = seconds(["run", RECIPE], root / "sweep")
        parts = [json.loads(path.read_text()) for path in (root / "sweep").glob("runs/store/*/*/manifest.json")]
    for name, taken in cold.items():
        print(f"cold {name:<16}{taken:>8.1f} s")
    work = {
        stage: [part["seconds"] for part in parts if part["stage"] == stage]
        for stage in ("dataset", "model", "tokenize", "train", "evaluate", "package")
    }
    for stage, taken_by in work.items():
        print(f"sweep {stage:<15}{sum(taken_by):>8.1f} s in {len(taken_by)}")
    own = sum(work["train"]) + sum(work["evaluate"])
    different = sum(taken for name, taken in cold.items() if name != "HYBRID_SHARD")
    print(f"the sweep            {sweep:>8.1f} s; again {again:.1f} s")
    print(f"of four cold runs    {sweep / sum(cold.values()):>8.2f}   budget 0.55")
    print(f"of three that differ {sweep / different:>8.2f}")
    print(f"of its training and evaluation {sweep / own:.2f}   budget 1.10")


def alone(strategy: str, cwd: Path) -> float:
    """Seconds of one point by itself, from nothing."""
    return seconds(["run", RECIPE, "hydra.mode=RUN", f"training.fsdp.sharding_strategy={strategy}"], cwd)


def seconds(arguments: list[str], cwd: Path) -> float:
    """Seconds of a command that must go well."""
    cwd.mkdir(exist_ok=True)
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "sft", *arguments], cwd=cwd, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
