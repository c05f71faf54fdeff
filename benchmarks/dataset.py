"""The dataset stage against `datasets` doing what a plain pipeline does, side by side in one run.

    SFT_TEST_DATA=… python benchmarks/dataset.py [ROWS]        (default 500,000; ten times as many are read too)

The plain pipeline loads the JSON Lines, looks at 100 rows, splits, and writes both halves twice (data and an artifact
copy of it). The stage checks every row, removes duplicates, splits and writes. Input: GSM8K's questions and answers as
chat messages, repeated, each made unique by its number in the question. Each side runs in a process of its own on one
core; seconds include its imports. Memory is the process's largest resident set.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPEATS = 3


def stage(source: Path, out: Path) -> None:
    """Run this project's stage."""
    from sft.config.schema import DatasetConfig
    from sft.progress import Progress
    from sft.stages.dataset import dataset

    dataset(DatasetConfig(uri=str(source)), out, Progress(quiet=True))


def plain(source: Path, out: Path) -> None:
    """`datasets` as pipelines use it."""
    from datasets import load_dataset

    rows = load_dataset("json", data_files=str(source), split="train", cache_dir=str(out / "cache"))
    for row in rows.select(range(100)):
        if not isinstance(row["messages"], list):
            raise SystemExit("not a chat dataset")
    halves = rows.train_test_split(test_size=0.1, seed=42)
    for copy in ("data", "artifact"):
        halves["train"].to_json(out / f"{copy}-train.jsonl")
        halves["test"].to_json(out / f"{copy}-eval.jsonl")


SIDES: dict[str, Callable[[Path, Path], None]] = {"sft": stage, "datasets": plain}


def measured(side: str, source: Path) -> tuple[float, float, float]:
    """Seconds, peak megabytes and seconds of user CPU of one side in a fresh process on one core."""
    with tempfile.TemporaryDirectory(dir=source.parent) as out:
        began = time.monotonic()
        command = [sys.executable, __file__, "--side", side, str(source), out]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.monotonic() - began
        megabytes, user = map(float, answer.stdout.splitlines()[-1].split())
        return seconds, megabytes, user


def write_rows(target: Path, num_rows: int) -> None:
    """GSM8K as chat messages, repeated with a number."""
    data = Path(os.environ["SFT_TEST_DATA"]) / "data" / "gsm8k" / "train.jsonl"
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    with target.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            row = rows[number % len(rows)]
            turns = (("user", f"{number}. {row['question']}"), ("assistant", row["answer"]))
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages}) + "\n")


def main() -> None:
    """Measures and prints."""
    num_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 500_000
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.jsonl", Path(folder) / "large.jsonl"
        write_rows(small, num_rows)
        print(f"{num_rows:,} rows, {small.stat().st_size / 1e6:.0f} MB; best of {REPEATS}, interleaved")
        best = dict.fromkeys(SIDES, (float("inf"), 0.0, 0.0))
        for _ in range(REPEATS):
            for side in SIDES:
                best[side] = min(best[side], measured(side, small))
        for side, (seconds, megabytes, user) in best.items():
            print(
                f"{side:<10}{seconds:8.2f} s {num_rows / seconds:12,.0f} rows/s {megabytes:8.0f} MB {user:8.2f} s CPU"
            )
        print(f"ratio     {best['datasets'][0] / best['sft'][0]:8.2f} (asked for: at least 8)")
        write_rows(large, 10 * num_rows)
        seconds, megabytes, user = measured("sft", large)
        print(
            f"10 x rows {seconds:8.2f} s {10 * num_rows / seconds:12,.0f} rows/s {megabytes:8.0f} MB {user:8.2f} s CPU"
        )
        per_million = (megabytes - best["sft"][1]) / (9 * num_rows) * 1e6
        growth = seconds / best["sft"][0]
        cpu = user / best["sft"][2]
        print(
            f"growth    {growth:8.2f} x (asked: at most 10.5), CPU {cpu:.2f} x; {per_million:.0f} MB per million rows"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        SIDES[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(usage.ru_maxrss / 1000, usage.ru_utime)
    else:
        main()
