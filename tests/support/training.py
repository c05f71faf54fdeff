"""One small training configuration, and functions that run, watch and stop a training.

`CONFIG` trains three epochs of seven steps on two ranks; `changed` returns it with other settings, `train` trains in
this process, `running` in one that a test may signal or kill. `curve`, `metrics` and `weights` read what was trained,
`ranks` and `steps_done` look at a training at work.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft.artifacts import CheckpointArtifact
from sft.config.schema import (
    GradientCheckpointing,
    LauncherConfig,
    LrScheduler,
    Precision,
    TrackingConfig,
    TrainingConfig,
)
from sft.files import sha256_file
from sft.planning.resources import resolve_resources
from sft.progress import Progress
from sft.stages import train as stage
from sft.stages.training_task import TrainInputs

EPOCHS, WARMUP, RATE, BATCH = 3, 2, 1e-2, 32
STEPS_PER_EPOCH = 7  # of 200 samples
CONFIG = TrainingConfig(
    num_epochs=EPOCHS,
    effective_batch_size=BATCH,
    max_seq_len=128,
    max_tokens_per_gpu=256,
    learning_rate=RATE,
    lr_scheduler=LrScheduler.linear,
    warmup_steps=WARMUP,
    precision=Precision.fp32,
    gradient_checkpointing=GradientCheckpointing.none,
    checkpoint_at_epoch=False,
    launcher=LauncherConfig(procs_per_worker=2),
    tracking=TrackingConfig(trackers=[]),
)
_PARENT = """
import pickle, sys
from sft.errors import Preempted
from sft.progress import Progress
from sft.stages.train import train
cfg, inputs, out = pickle.load(open(sys.argv[1], "rb"))
try:
    train(cfg, inputs, out, Progress())
except Preempted as stopped:
    print(stopped)
    sys.exit(stopped.exit_code)
"""


def train(cfg: TrainingConfig, inputs: TrainInputs, out: Path, progress: Progress) -> CheckpointArtifact:
    """Train with the resources that `cfg` gets on this machine, whatever those of `inputs` are."""
    return stage.train(cfg, replace(inputs, resources=resolve_resources(cfg)), out, progress)


def changed(**settings: Any) -> TrainingConfig:
    """`CONFIG` with some settings changed."""
    return replace(CONFIG, **settings)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of the ``metrics.jsonl`` of an artifact or of a run at work."""
    return [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def curve(folder: Path) -> list[tuple[int, float, float]]:
    """Step, loss and learning rate."""
    return [(row["step"], row["loss"], row["learning_rate"]) for row in metrics(folder)]


def weights(checkpoint: CheckpointArtifact) -> str:
    """Digest of the trained weights."""
    return sha256_file(checkpoint.model_dir / "model.safetensors")


def ranks(out: Path) -> list[int]:
    """Ranks of the training in `out`: the children of torchrun's agent, and what it left behind."""
    parents: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes().decode().split("\0")
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(module.startswith("sft.adapters.instructlab") for module in argv) and str(out / "logs") in argv:
            parents[int(process.name)] = parent
    agents = [pid for pid, parent in parents.items() if parent not in parents and pid in parents.values()]
    return [pid for pid in parents if pid not in agents]


def steps_done(out: Path) -> int:
    """Rows that a run at work has written."""
    file = out / "logs" / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_for(condition: Callable[[], Any], seconds: float) -> bool:
    """Whether `condition` came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def running(cfg: TrainingConfig, inputs: TrainInputs, out: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that trains into `out`; killed at the end."""
    request = out.with_suffix(".pickle")
    request.write_bytes(pickle.dumps((cfg, replace(inputs, resources=resolve_resources(cfg)), out)))
    argv = [sys.executable, "-c", _PARENT, str(request)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as parent:
        try:
            yield parent
        finally:
            parent.kill()
