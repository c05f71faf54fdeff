"""Tokenising through the stage against the library's own `process_data`, side by side in one run.

    SFT_TEST_DATA=… python benchmarks/tokenizing.py [ROWS]       (default 20,000)

Both get the same rows (GSM8K as chat messages), the same small tokenizer and all cores; each runs in a process of its
own, seconds include its imports. `process_data` gets one process per core, as the stage takes.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 2
INPUTS = "inputs.pickle"


def prepare(folder: Path, num_rows: int) -> None:
    """Write the rows and a model with its tokenizer."""
    from dataset import write_rows

    from sft.config.schema import DatasetConfig, ModelConfig, ModelSource
    from sft.progress import Progress
    from sft.stages.dataset import dataset
    from sft.stages.model import ModelInputs, model

    write_rows(folder / "rows.jsonl", num_rows)
    (folder / "data").mkdir()
    (folder / "model").mkdir()
    quiet = Progress(quiet=True)
    data = dataset(DatasetConfig(uri=str(folder / "rows.jsonl"), train_split=1.0), folder / "data", quiet)
    made = model(ModelConfig(source=ModelSource.scratch), ModelInputs(dataset=data), folder / "model", quiet)
    (folder / INPUTS).write_bytes(pickle.dumps((data, made)))


def stage(folder: Path, out: Path) -> None:
    """Run this project's stage."""
    from sft.config.schema import TrainingConfig
    from sft.progress import Progress
    from sft.stages.tokenize import TokenizeInputs, tokenize

    data, model = pickle.loads((folder / INPUTS).read_bytes())
    tokenize(TrainingConfig(max_seq_len=4096), TokenizeInputs(dataset=data, model=model), out, Progress(quiet=True))


def plain(folder: Path, out: Path) -> None:
    """Run the library's own function."""
    from instructlab.training.data_process import process_data

    process_data(
        data_path=str(folder / "data" / "train.jsonl"),
        data_output_path=str(out),
        max_seq_len=4096,
        model_path=str(folder / "model"),
        num_cpu_procs=len(os.sched_getaffinity(0)),
    )


SIDES = {"sft": stage, "process_data": plain}


def measured(side: str, folder: Path) -> float:
    """Seconds of one side in a fresh process."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, __file__, "--side", side, str(folder), out]
        environment = {**os.environ, "HF_DATASETS_CACHE": f"{out}/cache"}
        began = time.monotonic()
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        return time.monotonic() - began


def main() -> None:
    """Measures and prints."""
    num_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, num_rows)
        best = dict.fromkeys(SIDES, float("inf"))
        for _ in range(REPEATS):
            for side in SIDES:
                best[side] = min(best[side], measured(side, folder))
    for side, seconds in best.items():
        print(f"{side:<14}{seconds:8.2f} s {num_rows / seconds:10,.0f} rows/s")
    print(f"ratio         {best['process_data'] / best['sft']:8.2f} (asked for: never slower)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        SIDES[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
