"""Kills runs at random moments of every stage, and compares what comes out with an undisturbed run.

    python benchmarks/kills.py [--kills 100] [--seed 0]

A run downloads its data from a real S3 server, trains with a state at every step, evaluates, uploads its model
there and registers it in MLflow. Each is killed with SIGKILL twice in every stage on its way, the command or one of its
children, and started again until it is done. Every one must end with the data, weights, curve, scores, uploaded files
and the one registered version of the run that nothing disturbed. Prints a row of the table of kills by stage per
finished run; exits with 1 at the first difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, MutableMapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from sft.adapters import synthetic
from tests.servers import rclone

SETTINGS = [
    "dataset.uri=s3://data/rows.jsonl",
    "dataset.max_samples=500",
    "training.num_epochs=2",
    "training.checkpoint_every_steps=1",
    "training.tracking.trackers=[]",
    "eval.holdout.max_new_tokens=16",
    "registry.upload=s3://models/{name}",
]
KILLS_OF_A_STAGE = 2
_RESULTS = ("dataset", "model", "tokenize")
"""Stages whose output holds no time and no place: their digests are compared."""

_REGISTERED = (
    "select name, version from model_versions",
    "select alias, version from registered_model_aliases",
    "select distinct status = 'RUNNING' from runs",
)


class Run:
    """One run root, and the command that works in it."""

    def __init__(self, root: Path, name: str, environment: Mapping[str, str]) -> None:
        self.cwd, self.name, self._environment = root / name, name, dict(environment)
        self.cwd.mkdir()

    def start(self) -> subprocess.Popen[bytes]:
        settings = [setting.format(name=self.name) for setting in SETTINGS]
        argv = [sys.executable, "-m", "sft", "run", "quickstart", *settings]
        with (self.cwd / "said.txt").open("ab") as said:
            return subprocess.Popen(argv, cwd=self.cwd, stdout=said, stderr=said, env=self._environment)

    def children(self) -> list[int]:
        """Return the processes that work for the command."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError):
                argv = (process / "cmdline").read_bytes().decode()
                if "sft.adapters" in argv and str(self.cwd) in argv:
                    found.append(int(process.name))
        return found

    def record(self) -> dict[str, Any]:
        """Return the run's record; empty as long as there is none."""
        for file in self.cwd.glob("runs/*/run.json"):
            record: dict[str, Any] = json.loads(file.read_text())
            return record
        return {}

    def written_at(self) -> int:
        """Return when the record was written last, in nanoseconds; 0 as long as there is none."""
        return max((file.stat().st_mtime_ns for file in self.cwd.glob("runs/*/run.json")), default=0)

    def stage(self) -> str:
        """Return the step at work."""
        return next((step["name"] for step in self.record().get("steps", ()) if step["status"] == "running"), "")

    def result(self, models: Path) -> dict[str, Any]:
        """Return all that must be the same in every run.

        Args:
            models: Folder of the bucket of models.
        """
        steps = {step["name"]: step for step in self.record()["steps"]}
        trained, packaged = (Path(steps[name]["path"]) for name in ("train", "package"))
        rows = [json.loads(line) for line in (trained / "logs" / "metrics.jsonl").read_text().splitlines()]
        files = {file.name: _sha256(file) for file in (packaged / "model").iterdir() if file.is_file()}
        uploaded = {file.name: _sha256(file) for file in (models / self.name).rglob("*") if file.is_file()}
        with closing(sqlite3.connect(self.cwd / "runs" / "mlflow.db")) as registry:
            registered = [registry.execute(query).fetchall() for query in _REGISTERED]
        return {
            **{name: steps[name]["output"] for name in _RESULTS},
            "weights": files["model.safetensors"],
            "curve": [(row["step"], row["loss"], row["learning_rate"]) for row in rows],
            "scores": [steps[name]["facts"]["scores"] for name in ("evaluate:base", "evaluate:tuned")],
            "uploaded": uploaded == files,
            "registered": registered,
        }


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def killed(run: Run, moments: random.Random, target: str, seconds: MutableMapping[str, float]) -> str:
    """Start a run and kill it in a stage, or in the next one if that is over too soon.

    Args:
        run: The run.
        moments: Chooses the moment and the process.
        target: The stage.
        seconds: How long each stage takes; less from now on if this one is over sooner, on a machine less busy.

    Returns:
        The stage at work; "" if the run was done before.
    """
    stages, before = list(seconds), run.written_at()
    later = stages[stages.index(target) :]
    command = run.start()
    while run.written_at() == before or run.stage() not in later:  # the last command's record still names its stage
        if command.poll() is not None:
            return ""
        time.sleep(0.005)
    at_work, moment = run.stage(), time.monotonic() + moments.uniform(0, seconds[target])
    while time.monotonic() < moment and run.stage() == at_work and command.poll() is None:
        time.sleep(0.005)
    stage = run.stage() or at_work  # which has just ended
    if stage != at_work:
        seconds[at_work] /= 2
    victims = [command.pid, *run.children()]
    if command.poll() is not None:
        return ""
    with suppress(ProcessLookupError):
        os.kill(moments.choice(victims), signal.SIGKILL)
    command.wait(120)
    deadline = time.monotonic() + 20
    while (left := run.children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        raise SystemExit(f"{run.name}: processes {left} outlived their run")
    return stage


def main() -> int:
    """Kill, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    print(f"python benchmarks/kills.py --kills {options.kills} --seed {options.seed}")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for bucket in ("data", "models"):
            (root / "s3" / bucket).mkdir(parents=True)
        synthetic.write("synthetic://spell-numbers?rows=20000", root / "s3" / "data" / "rows.jsonl")
        with rclone.s3(root / "s3", written=True) as endpoint:
            keys = {"AWS_ACCESS_KEY_ID": rclone.KEY_ID, "AWS_SECRET_ACCESS_KEY": rclone.SECRET}
            environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
            return _kill(root, environment, moments, options.kills)


def _kill(root: Path, environment: Mapping[str, str], moments: random.Random, wanted: int) -> int:
    models = root / "s3" / "models"
    undisturbed = Run(root, "undisturbed", environment)
    if undisturbed.start().wait() != 0:
        print("the undisturbed run failed:", (undisturbed.cwd / "said.txt").read_text(), sep="\n")
        return 1
    expected = undisturbed.result(models)
    seconds = {step["name"]: step["seconds"] for step in undisturbed.record()["steps"]}
    print(f"undisturbed: {sum(seconds.values()):.1f} s, {len(expected['curve'])} steps")
    kills: Counter[str] = Counter()
    stages = list(seconds)
    runs = 0
    print("".join(f"{name:>16}" for name in ("", *stages, "kills so far")), flush=True)
    while kills.total() < wanted:
        run, own = Run(root, f"run_{runs}", environment), Counter[str]()
        for target in [stage for stage in stages for _ in range(KILLS_OF_A_STAGE)]:
            if stage := killed(run, moments, target, seconds):
                own[stage] += 1
        if run.start().wait() != 0:
            print(f"{run.name}: failed after its last kill:", (run.cwd / "said.txt").read_text()[-2000:], sep="\n")
            return 1
        runs, kills = runs + 1, kills + own
        found = run.result(models)
        if different := [name for name in expected if found[name] != expected[name]]:
            print(f"{run.name}: DIFFERENT in {', '.join(different)} after kills in {', '.join(own.elements())}")
            print({name: (expected[name], found[name]) for name in different})
            return 1
        print("".join(f"{name:>16}" for name in (run.name, *(own[name] for name in stages), kills.total())), flush=True)
    print("".join(f"{name:>16}" for name in ("all", *(kills[name] for name in stages), kills.total())))
    print(f"{kills.total()} kills, {runs} runs: every one ended with what the undisturbed run made")
    return 0


if __name__ == "__main__":
    sys.exit(main())
