"""From a file of chats to a model that answers, in three commands, by the stopwatch.

    python -m sft.adapters.smollm2 /tmp/smollm2
    python benchmarks/first_model.py --model /tmp/smollm2 --questions gsm8k/train.jsonl

The chats are the first rows of a file with ``question`` and ``answer``. Installation is not in it, and the model is
here already. ``sft init`` looks at the file and this machine; nothing is set by hand. Memory is as in `quickstart`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from quickstart import SFT, measure


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--questions", type=Path, required=True, help="JSON Lines of question and answer")
    parser.add_argument("--chats", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_chats(arguments.questions, folder / "chats.jsonl", arguments.chats)
        print(f"{'command':<36}{'seconds':>9}{'peak MB':>9}", flush=True)
        for command in (["init", "chats.jsonl", "--model", arguments.model, "--yes"], ["run", "recipe.yaml"]):
            seconds, megabytes = measure([*SFT, *command], folder)
            print(f"{'sft ' + ' '.join(command)[:31]:<36}{seconds:>9.1f}{megabytes:>9.0f}", flush=True)
        seconds, answer = ask(folder, next((folder / "runs").glob("recipe-*")).name)
        print(f"{'sft chat, one answer':<36}{seconds:>9.1f}")
        record = json.loads(next((folder / "runs").glob("recipe-*/run.json")).read_text(encoding="utf-8"))
        for step in record["steps"]:
            print(f"  {step['name']:<34}{step['seconds']:>9.1f}")
        print(f"\nits answer: {answer}")


def write_chats(questions: Path, chats: Path, num: int) -> None:
    """Write the first rows as chats of two turns."""
    with questions.open(encoding="utf-8") as rows, chats.open("w", encoding="utf-8") as file:
        for row, _ in zip(map(json.loads, rows), range(num), strict=False):
            turns = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
            file.write(json.dumps({"messages": turns}) + "\n")


def ask(folder: Path, run: str) -> tuple[float, str]:
    """Return the seconds that one question takes, loading the model included, and the answer."""
    began = time.monotonic()
    question = "Tom has 3 boxes of 4 pens. How many pens does he have?\n"
    command = [*SFT, "chat", f"runs/{run}", "--max-tokens", "64"]
    done = subprocess.run(command, cwd=folder, input=question, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.monotonic() - began, done.stdout.strip()


if __name__ == "__main__":
    main()
