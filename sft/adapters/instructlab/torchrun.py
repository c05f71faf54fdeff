"""The orchestrator's side of a training: starts torchrun, watches what the ranks write, and says why one failed.

Imports nothing of the library. What the ranks write is `loop`'s: ``metrics.jsonl`` and the notes beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from sft.adapters.instructlab.layout import (
    ERRORS,
    FINISHED,
    MODELS,
    RESUMED,
    SETTINGS,
    STACKS,
    STOP,
    STOPPED,
    UNTRACKED,
)
from sft.adapters.instructlab.monitor import RankLost, TrainingProgress, View
from sft.adapters.instructlab.settings import LaunchSettings, MainArgs, Nodes, WorkerOptions
from sft.adapters.os.process import child_error, describe_exit, supervise, tail
from sft.errors import Preempted, StageError
from sft.files import write_json

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "MemoryError")
_LESS_MEMORY = "lower training.max_tokens_per_gpu, or shard more: training/fsdp=full_shard"
_LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL error", "timed out")
_NO_SPACE = ("No space left on device", "File too large", "Disk quota exceeded")
_PORT_TAKEN = ("EADDRINUSE", "address already in use", "Address already in use")


def launch(
    main: MainArgs,
    options: WorkerOptions,
    settings: LaunchSettings,
    *,
    logs: Path,
    watch: Callable[[TrainingProgress], None],
    say: Callable[[str], None],
) -> None:
    """Trains to the end, from the last full state where there is one; on one node of several, its part.

    SIGTERM and SIGUSR1 save the state in the middle of the epoch and end the run; a second one ends it at once.

    Args:
        main: What the library gets.
        options: What it hard-codes, has wrong or has not.
        settings: The processes.
        logs: Folder for the log, the metrics and the ranks' errors; kept where a run goes on, shared by all nodes.
        watch: Called now and then with what is to be seen.
        say: Called with a line that is worth keeping.

    Raises:
        Preempted: The run was asked to stop, and its state is saved.
        RankLost: A rank was killed, hung or lost its connection.
        StageError: A rank failed; the message is the first one's own error.
    """
    if settings.nodes.rank == 0:
        clear(logs)
        write_json(logs / SETTINGS, {"main": asdict(main), "options": asdict(options)})
    supervise_node(main, settings, logs=logs, watch=watch, say=say)


def clear(logs: Path) -> None:
    """Takes away what an earlier try has noted, and makes room for this one's notes."""
    for folder in (ERRORS, STACKS):
        shutil.rmtree(logs / folder, ignore_errors=True)
        (logs / folder).mkdir(parents=True)
    for note in (STOP, STOPPED, RESUMED, UNTRACKED):
        (logs / note).unlink(missing_ok=True)


def supervise_node(
    main: MainArgs,
    settings: LaunchSettings,
    *,
    logs: Path,
    watch: Callable[[TrainingProgress], None],
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> None:
    """A node's ranks, from torchrun's start to its end.

    Args:
        main: What the library gets.
        settings: The processes.
        logs: As in `launch`; the ranks' settings lie there already.
        watch: Called now and then with what is to be seen.
        say: Called with a line that is worth keeping.
        check: Called now and then; what it raises ends the ranks.

    Raises:
        Preempted: The run was asked to stop, and its state is saved.
        RankLost: A rank was killed, hung or lost its connection.
        StageError: A rank failed.
    """
    nodes = settings.nodes
    worker = ["-m", "sft.adapters.instructlab.rank.worker", str(logs)]
    agent = [sys.executable, "-m", "sft.adapters.instructlab.torchrun_agent", str(logs / ERRORS / _agent_file(nodes))]
    log = logs / (f"train_{nodes.rank}.log" if nodes.rank else "train.log")
    view = View(logs, main.num_epochs, settings.stall_timeout_seconds, watch, say)

    def look() -> None:
        view.look()
        check()

    with _saving_when_asked(logs / STOP, say) as asked:
        status = supervise(
            [*agent, *_torchrun(settings, logs), *worker],
            log=log,
            env=_environment(settings, main),
            poll=look,
            poll_seconds=0.5,
        )
    if status != 0:
        raise _failure(logs / ERRORS, nodes, status, log)
    if (logs / STOPPED).exists():
        step = json.loads((logs / STOPPED).read_text(encoding="utf-8"))["step"]
        raise Preempted(f"{asked()}: stopped after step {step}, its full state is saved; the same command continues")
    if nodes.rank:
        return  # node 0 looks after the result, and may have moved it already
    if not (logs / FINISHED).exists():
        raise StageError(f"training ended without a model; its last lines:\n{tail(log)}", log=log)
    view.look()  # the last steps
    if (logs / STOP).exists():
        raise Preempted(f"{asked()}: training has just ended and is kept; the same command goes on after it")


def _torchrun(settings: LaunchSettings, logs: Path) -> list[str]:
    """torchrun's own options. Ranks are never restarted one by one: a run goes on from a full state, all together."""
    nodes = settings.nodes
    processes = [
        "--nproc-per-node",
        str(settings.num_processes),
        "--max-restarts",
        "0",
        "--log-dir",
        str(logs / "torchrun"),
    ]
    if nodes.num == 1:
        return ["--standalone", *processes]
    host, _, port = nodes.rendezvous.rpartition(":")
    where = ["--nnodes", str(nodes.num), "--node-rank", str(nodes.rank), "--master-addr", host, "--master-port", port]
    return [*where, *processes]


def _agent_file(nodes: Nodes) -> str:
    return f"agent_{nodes.rank}.json"


@contextlib.contextmanager
def _saving_when_asked(stop: Path, say: Callable[[str], None]) -> Iterator[Callable[[], str]]:
    """While the block runs, SIGTERM and SIGUSR1 ask the ranks to save and stop. Gives the name of what was sent."""
    received = ["a request"]

    def ask(number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if stop.exists():
            raise KeyboardInterrupt(name)
        received[0] = name
        stop.touch()
        say(f"  {name}: saves its state after this step; once more ends it at once")

    numbers = (signal.SIGTERM, signal.SIGUSR1) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield lambda: received[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(settings: LaunchSettings, main: MainArgs) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": str(max(1, cores // settings.num_processes)),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # the model is local by now; nothing else is to be fetched
        "HF_DATASETS_CACHE": str(Path(main.output_dir) / "datasets"),  # else a copy of the data stays in the home
        "TRUST_REMOTE_CODE": "1" if main.trust_remote_code else "0",
        # What a CPU computes in comes from malloc: in huge pages, where Linux lets a program ask, an eighth faster.
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
        **settings.env,
    }


def _failure(errors: Path, nodes: Nodes, status: int, log: Path) -> StageError:
    """Why the run ended: a rank that was killed, else the first rank's own error, else torchrun's status.

    A killed rank comes first because the others then only see their connection to it close. SIGTERM doesn't count:
    it is how torchrun ends the others.
    """
    agent = errors / _agent_file(nodes)
    torchrun = json.loads(agent.read_text(encoding="utf-8")) if agent.exists() else {"exit_statuses": {}}
    for rank, rank_status in torchrun["exit_statuses"].items():
        if rank_status < 0 and -rank_status != signal.SIGTERM:
            fix = _LESS_MEMORY if -rank_status == signal.SIGKILL else None
            return RankLost(f"training failed: rank {rank} {describe_exit(rank_status)}", fix=fix, log=log)
    own = [json.loads(path.read_text(encoding="utf-8")) for path in errors.glob("rank_*.json")]
    if own:
        first = min(own, key=lambda error: float(error["time"]))
        text = f"{first['type']}: {first['message']}"
        if _says(text, _OUT_OF_MEMORY):
            first["fix"] = _LESS_MEMORY
        elif _says(text, _NO_SPACE):
            first["fix"] = "free space, then repeat; the last full state is whole"
        elif _says(text, _LOST_CONNECTION):
            return RankLost(f"training failed: {text}", fix="see training.max_restarts", log=log)
        return child_error(first, what="training", log=log)
    if "error" in torchrun:
        error = torchrun["error"]
        if _says(error["message"], _PORT_TAKEN):
            error["fix"] = "another port in training.launcher.rendezvous"
        elif _says(error["message"], _LOST_CONNECTION):
            return RankLost(f"torchrun failed: {error['type']}: {error['message']}", log=log)
        return child_error(error, what="torchrun", log=log)
    return StageError(f"training failed: torchrun {describe_exit(status)}; its last lines:\n{tail(log)}", log=log)


def _says(text: str, signs: tuple[str, ...]) -> bool:
    return any(sign in text for sign in signs)


def checkpoint(output_dir: Path, num_samples: int) -> Path:
    """The finished model: what was saved when the last sample had been seen.

    Raises:
        StageError: It is not there.
    """
    saved = output_dir / MODELS / f"samples_{num_samples}"
    if saved.is_dir():
        return saved
    there = sorted(path.name for path in (output_dir / MODELS).glob("*"))
    raise StageError(
        f"training ended without a checkpoint after {num_samples} samples (there is: {', '.join(there) or 'none'}); "
        "the trainer lost rows of the training split"
    )
