"""`sft eval` against lm-eval's command line: the same model, the same local task, the same numbers.

    python benchmarks/evaluation.py [--rounds 2] [--questions 200 5000]

The task is the quickstart's, multiple choice: four requests a question. lm-eval runs with batches of one, its default,
and of ``auto``; the faster of the two is what is compared. Each side is a fresh process in an empty folder, rounds are
interleaved, and the best of each side counts. More than one accuracy in a line would say that the sides disagree.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from sft.config.compose import shipped

LM_EVAL = "lm-eval, batch size"
ASKED = "asked for: 0.7 for a small task, 1 for a large one"


def prepare(folder: Path) -> Path:
    """Make a model of the quickstart's size, untrained."""
    from sft.config.schema import DatasetConfig, ModelConfig, ModelSource
    from sft.progress import Progress
    from sft.stages.dataset import dataset
    from sft.stages.model import ModelInputs, model

    for name in ("data", "model"):
        (folder / name).mkdir()
    quiet = Progress(quiet=True)
    uri = "synthetic://spell-numbers?rows=1000&seed=0"
    rows = dataset(DatasetConfig(uri=uri), folder / "data", quiet)
    return model(ModelConfig(source=ModelSource.scratch), ModelInputs(dataset=rows), folder / "model", quiet).model_dir


def tasks_of(folder: Path, num_questions: int) -> Path:
    """Write the quickstart's task with so many questions: its own, repeated, each under its own number."""
    tasks = folder / f"tasks-{num_questions}"
    shutil.copytree(shipped("recipes") / "tasks", tasks)
    file = tasks / "spell_numbers.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    many = [
        {**rows[n % len(rows)], "question": f"{rows[n % len(rows)]['question']} ({n})"} for n in range(num_questions)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in many), encoding="utf-8")
    return tasks


def sft(model: Path, tasks: Path, cwd: Path) -> float:
    """Seconds of `sft eval`, and the accuracy in ``acc``."""
    argv = [
        *(sys.executable, "-m", "sft", "eval", str(model)),
        "eval.tasks=[spell_numbers]",
        f"eval.include_path={tasks}",
    ]
    seconds = timed([*argv, "eval.apply_chat_template=true"], cwd)
    [report] = cwd.glob("runs/store/evaluate/*/report.json")
    (cwd / "acc").write_text(str(json.loads(report.read_text())["scores"][0]["value"]))
    return seconds


def lm_eval(model: Path, tasks: Path, cwd: Path, batch_size: str) -> float:
    """Seconds of lm-eval's command line, and the accuracy in ``acc``."""
    argv = [*(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"), "--tasks", "spell_numbers"]
    argv += ["--model_args", f"pretrained={model}", "--include_path", str(tasks), "--apply_chat_template"]
    argv += ["--output_path", str(cwd / "r.json"), "--log_samples", "--batch_size", batch_size]
    seconds = timed(argv, cwd, own_folder=tasks)
    [report] = cwd.glob("r_*.json")
    (cwd / "acc").write_text(str(json.loads(report.read_text())["results"]["spell_numbers"]["acc,none"]))
    return seconds


def timed(argv: list[str], cwd: Path, own_folder: Path | None = None) -> float:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cwd / "cache"), "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    done = subprocess.run(argv, cwd=own_folder or cwd, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--questions", type=int, nargs="+", default=[200, 5000])
    options = parser.parse_args()
    print(
        f"python benchmarks/evaluation.py --rounds {options.rounds} --questions {' '.join(map(str, options.questions))}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = prepare(folder)
        for num_questions in options.questions:
            tasks = tasks_of(folder, num_questions)
            seconds: dict[str, list[float]] = defaultdict(list)
            accuracies = set()
            for number in range(options.rounds):
                for side in ("sft eval", f"{LM_EVAL} 1", f"{LM_EVAL} auto"):
                    cwd = folder / f"{num_questions}-{number}-{side}"
                    cwd.mkdir()
                    took = (
                        sft(model, tasks, cwd) if side == "sft eval" else lm_eval(model, tasks, cwd, side.split()[-1])
                    )
                    seconds[side].append(took)
                    accuracies.add((cwd / "acc").read_text())
            best = {side: min(found) for side, found in seconds.items()}
            theirs = min(value for side, value in best.items() if side != "sft eval")
            print(f"{num_questions} questions, accuracies {', '.join(sorted(accuracies))}")
            for side, value in best.items():
                print(f"  {side:<28}{value:7.1f} s")
            print(f"  sft / the faster lm-eval: {best['sft eval'] / theirs:.2f} ({ASKED})")


if __name__ == "__main__":
    main()
