"""`sft eval` against lm-eval's command line, or two processes of it against one: the same model, task and numbers.

    python benchmarks/evaluation.py [--rounds 2] [--questions 200 5000]
    python benchmarks/evaluation.py --processes 2 [--rounds 1] [--questions 800]

The task is the quickstart's, multiple choice: four requests a question. lm-eval runs with batches of one, its default,
and of ``auto``; the faster of the two is what is compared. Each side is a fresh process in an empty folder, rounds are
interleaved, and the best of each side counts. More than one accuracy in a line would say that the sides disagree.

With ``--processes`` the model is larger, so that answers are what takes long. `eval.num_processes` processes, each on
its part of the cores, are held against one process on as many cores as one of them has, as two GPUs are against one;
and, for comparison, against one process on all cores, where torch's threads share each product instead. Seconds are
those of the scoring, from the start of its process to its scores. All scores must be the same to the last digit.
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
ASKED_OF_PROCESSES = 1.6
LARGER = {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 2048}


def prepare(folder: Path, **size: int) -> Path:
    """Make a model of the quickstart's size unless another is given, untrained."""
    from sft.config.schema import DatasetConfig, ModelConfig, ModelSource, ScratchConfig
    from sft.progress import Progress
    from sft.stages.dataset import dataset
    from sft.stages.model import ModelInputs, model

    for name in ("data", "model"):
        (folder / name).mkdir()
    quiet = Progress(quiet=True)
    uri = "synthetic://spell-numbers?rows=1000&seed=0"
    rows = dataset(DatasetConfig(uri=uri), folder / "data", quiet)
    cfg = ModelConfig(source=ModelSource.scratch, scratch=ScratchConfig(**size))
    return model(cfg, ModelInputs(dataset=rows), folder / "model", quiet).model_dir


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


def sft(model: Path, tasks: Path, cwd: Path, *overrides: str, cores: int | None = None) -> float:
    """Seconds of `sft eval`, and the accuracy in ``acc``."""
    argv = [
        *(sys.executable, "-m", "sft", "eval", str(model)),
        "eval.tasks=[spell_numbers]",
        f"eval.include_path={tasks}",
    ]
    seconds = timed([*argv, "eval.apply_chat_template=true", *overrides], cwd, cores=cores)
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


def timed(argv: list[str], cwd: Path, own_folder: Path | None = None, cores: int | None = None) -> float:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cwd / "cache"), "HF_HUB_OFFLINE": "1"}
    if cores is not None:
        argv = ["taskset", "-c", f"0-{cores - 1}", *argv]
    began = time.monotonic()
    done = subprocess.run(argv, cwd=own_folder or cwd, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds


def scored(model: Path, tasks: Path, cwd: Path, num_processes: int, cores: int) -> tuple[float, str]:
    """Seconds of the scoring in so many processes on so many cores, and all scores with all their digits."""
    cwd.mkdir()
    sft(model, tasks, cwd, f"eval.num_processes={num_processes}", cores=cores)
    [manifest] = cwd.glob("runs/store/evaluate/*/manifest.json")
    facts = json.loads(manifest.read_text())
    scores = {f"{one['task']}.{one['metric']}": (one["value"], one["stderr"]) for one in facts["facts"]["scores"]}
    return facts["seconds"], json.dumps(scores)


def compare_processes(folder: Path, num: int, num_questions: int, rounds: int) -> None:
    """Print how much faster several processes are than one."""
    model, tasks = prepare(folder, **LARGER), tasks_of(folder, num_questions)
    all_cores = len(os.sched_getaffinity(0))
    each = max(1, all_cores // num)
    sides = {
        f"1 process, {each} of {all_cores} cores": (1, each),
        f"1 process, {all_cores} cores": (1, all_cores),
        f"{num} processes, {each} core{'s' * (each > 1)} each": (num, all_cores),
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    scores = set()
    for number in range(rounds):
        for place, (side, (processes, cores)) in enumerate(sides.items()):
            took, found = scored(model, tasks, folder / f"{number}-{place}", processes, cores)
            seconds[side].append(took)
            scores.add(found)
    best = {side: min(found) for side, found in seconds.items()}
    print(f"{num_questions} questions, scores {' and '.join(sorted(scores))}")
    print("  the scores are the same to the last digit" if len(scores) == 1 else "  THE SCORES DIFFER")
    *ones, several = best.values()
    for (side, value), times in zip(best.items(), [*(one / several for one in ones), 1.0], strict=True):
        print(f"  {side:<28}{value:7.1f} s  {times:5.2f}")
    print(f"  1 process / {num} processes: {ones[0] / several:.2f} (asked for: {ASKED_OF_PROCESSES})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--questions", type=int, nargs="+", default=None)
    parser.add_argument("--processes", type=int, help="hold so many processes against one")
    options = parser.parse_args()
    if options.processes:
        [num_questions] = options.questions or [800]
        print(
            f"python benchmarks/evaluation.py --processes {options.processes} --rounds {options.rounds} "
            f"--questions {num_questions}"
        )
        with tempfile.TemporaryDirectory() as name:
            compare_processes(Path(name), options.processes, num_questions, options.rounds)
        return
    options.questions = options.questions or [200, 5000]
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
