"""The orchestrator's side of a training: starts torchrun, watches the metrics, and says why it failed.

Imports nothing of the library. Knows the library's output folder: ``hf_format/samples_N``, ``full_state/epoch_N``
and ``training_params_and_metrics_global0.jsonl``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft.adapters.child import write_json
from sft.adapters.instructlab.agent import NAME as AGENT_NAME
from sft.adapters.instructlab.settings import LaunchSettings, MainArgs, WorkerOptions
from sft.adapters.instructlab.worker import ERRORS, SETTINGS
from sft.adapters.process import ended, failure, supervise, tail
from sft.errors import StageError

_METRICS = "training_params_and_metrics_global0.jsonl"
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "MemoryError")
_LESS_MEMORY = "lower training.max_tokens_per_gpu, or shard more: training/fsdp=full_shard"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step, as ``metrics.jsonl`` holds it.

    Attributes:
        step: Counted from 1 over the whole run, restarts included.
        epoch: Counted from 0.
        samples_seen: Since the start of the run.
        loss: Mean over the batch's loss tokens, natural logarithm.
        learning_rate: After the step.
        num_tokens: In the batch over all ranks, padding included.
        num_loss_tokens: In the batch over all ranks.
        samples_per_second: Over all ranks.
    """

    step: int
    epoch: int
    samples_seen: int
    loss: float
    learning_rate: float
    num_tokens: int
    num_loss_tokens: int
    samples_per_second: float


def launch(
    main: MainArgs,
    options: WorkerOptions,
    settings: LaunchSettings,
    *,
    logs: Path,
    watch: Callable[[Step, int], None],
) -> list[Step]:
    """Trains to the end, from the last full state where there is one.

    Args:
        main: What the library gets.
        options: What it hard-codes.
        settings: The processes.
        logs: Folder for the log and the ranks' errors.
        watch: Called now and then with the newest step and the number of steps of an epoch.

    Returns:
        Every optimizer step of the run, those before a restart included.

    Raises:
        StageError: A rank failed; the message is the first one's own error.
    """
    errors = logs / ERRORS
    shutil.rmtree(errors, ignore_errors=True)
    errors.mkdir(parents=True)
    write_json(logs / SETTINGS, {"main": asdict(main), "options": asdict(options)})
    torchrun = ["--standalone", "--nproc-per-node", str(settings.num_processes), "--max-restarts", "0"]
    worker = ["-m", "sft.adapters.instructlab.worker", str(logs)]
    agent = [sys.executable, "-m", "sft.adapters.instructlab.agent", str(logs)]
    metrics = _Metrics(Path(main.output_dir) / _METRICS, main.effective_batch_size, watch)
    log = logs / "train.log"
    status = supervise(
        [*agent, *torchrun, *worker],
        log=log,
        env=_environment(settings, main),
        poll=metrics.read,
        poll_seconds=0.5,
    )
    if status != 0:
        raise _failure(errors, status, log)
    metrics.read()
    return metrics.steps()


class _Metrics:
    """The library's metrics file as it grows. Trap 8: a restart repeats rows and counts its steps from 1 again."""

    def __init__(self, path: Path, batch_size: int, watch: Callable[[Step, int], None]) -> None:
        self._path = path
        self._batch_size = batch_size
        self._watch = watch
        self._offset = 0
        self._steps: dict[int, Step] = {}
        if path.exists():  # the try before may have been killed in the middle of a row
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)

    def read(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        rows = [row for row in map(json.loads, whole.splitlines()) if "avg_loss" in row]
        for row in rows:
            step = self._step(row)
            self._steps[step.step] = step
        if rows:
            self._watch(self._step(rows[-1]), rows[-1]["num_epoch_steps"])

    def steps(self) -> list[Step]:
        return [step for _, step in sorted(self._steps.items())]

    def _step(self, row: dict[str, Any]) -> Step:
        samples_in_epoch = row["samples_seen"] - row["epoch"] * row["total_samples"]
        return Step(
            step=row["epoch"] * row["num_epoch_steps"] + math.ceil(samples_in_epoch / self._batch_size),
            epoch=row["epoch"],
            samples_seen=row["samples_seen"],
            loss=row["avg_loss"],
            learning_rate=row["lr"],
            num_tokens=row["num_tokens_rank0"],  # summed over ranks, whatever its name says
            num_loss_tokens=row["num_loss_counted_tokens"],
            samples_per_second=row["overall_throughput"],
        )


def _environment(settings: LaunchSettings, main: MainArgs) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": str(max(1, cores // settings.num_processes)),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # the model is local by now; nothing else is to be fetched
        "HF_DATASETS_CACHE": str(Path(main.output_dir) / "datasets"),  # else a copy of the data stays in the home
        "TRUST_REMOTE_CODE": "1" if main.trust_remote_code else "0",
        **settings.env,
    }


def _failure(errors: Path, status: int, log: Path) -> StageError:
    """Why the run ended: a rank that was killed, else the first rank's own error, else torchrun's status.

    A killed rank comes first because the others then only see their connection to it close. SIGTERM doesn't count:
    it is how torchrun ends the others.
    """
    agent = errors / AGENT_NAME
    statuses = json.loads(agent.read_text(encoding="utf-8"))["exit_statuses"] if agent.exists() else {}
    for rank, rank_status in statuses.items():
        if rank_status < 0 and -rank_status != signal.SIGTERM:
            fix = _LESS_MEMORY if -rank_status == signal.SIGKILL else None
            return StageError(f"training failed: rank {rank} {ended(rank_status)}", fix=fix, log=log)
    own = [json.loads(path.read_text(encoding="utf-8")) for path in errors.glob("rank_*.json")]
    if own:
        first = min(own, key=lambda error: float(error["time"]))
        if any(sign in f"{first['type']}: {first['message']}" for sign in _OUT_OF_MEMORY):
            first["fix"] = _LESS_MEMORY
        return failure(first, what="training", log=log)
    return StageError(f"training failed: torchrun {ended(status)}; its last lines:\n{tail(log)}", log=log)


def checkpoint(output_dir: Path, num_samples: int) -> Path:
    """The finished model: what was saved when the last sample had been seen.

    Raises:
        StageError: It is not there: rows were lost on the way, or nothing was trained.
    """
    saved = output_dir / "hf_format" / f"samples_{num_samples}"
    if saved.is_dir():
        return saved
    there = sorted(path.name for path in (output_dir / "hf_format").glob("*"))
    raise StageError(
        f"training ended without a checkpoint after {num_samples} samples (there is: {', '.join(there) or 'none'}); "
        "the trainer lost rows of the training split"
    )


def check_losses(steps: list[Step]) -> None:
    """Raises `StageError` where there is no step, or a loss is not a number."""
    if not steps:
        raise StageError("training ended without an optimizer step")
    for step in steps:
        if not math.isfinite(step.loss):
            raise StageError(
                f"the loss is {step.loss} at step {step.step} (epoch {step.epoch})",
                fix="a lower training.learning_rate, more training.warmup_steps, or training.precision=fp32",
            )
