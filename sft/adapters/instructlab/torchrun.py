"""Owns starting torchrun, watching the ranks from the parent process, and saying why they failed.

Imports nothing of the library. The ranks write ``metrics.jsonl`` and notes beside it (`rank.loop`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from sft.adapters.instructlab.failure import agent_file, failure
from sft.adapters.instructlab.layout import (
    COMPILED,
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
from sft.adapters.instructlab.monitor import RankLost, TrainingMonitor, TrainingProgress
from sft.adapters.instructlab.private_store import LOOPBACK
from sft.adapters.instructlab.settings import LaunchSettings, MainArgs, WorkerOptions
from sft.adapters.os import inherited
from sft.adapters.os.cgroup import num_cpus
from sft.adapters.os.command import ENDING, leave_terminal
from sft.adapters.os.process import supervise, tail
from sft.errors import Preempted, StageError
from sft.files import write_json
from sft.scratch import scratch


class StoppedElsewhere(Preempted):
    """Another node was asked to stop: this one's ranks have ended with it, and their state is saved."""


def launch(
    main: MainArgs,
    options: WorkerOptions,
    settings: LaunchSettings,
    *,
    logs: Path,
    watch: Callable[[TrainingProgress], None],
    say: Callable[[str], None],
) -> None:
    """Train to the end, from the last full state if there is one; on one node of several, this node's part.

    SIGTERM, SIGHUP and SIGUSR1 save the state within the epoch and end the run; a second one ends it at once.

    Args:
        main: Arguments of the library.
        options: Settings that the library lacks or hard-codes.
        settings: The processes.
        logs: Folder for the log, the metrics and the ranks' errors. Kept if a run resumes; shared by all nodes.
        watch: Called regularly with the progress.
        say: Called with a line that stays.

    Raises:
        Preempted: The run was asked to stop, and its state is saved.
        RankLost: A rank was killed, hung or lost its connection.
        StageError: A rank failed; the message is the error of the first one that did.
    """
    if settings.nodes.rank == 0:
        clear(logs)
        write_json(logs / SETTINGS, {"main": asdict(main), "options": asdict(options)})
    supervise_node(main, settings, logs=logs, watch=watch, say=say)


def clear(logs: Path) -> None:
    """Remove the notes of an earlier attempt, and create the folders for this one's."""
    for folder in (ERRORS, STACKS):
        shutil.rmtree(logs / folder, ignore_errors=True)
        (logs / folder).mkdir(parents=True)
    for note in (STOP, STOPPED, RESUMED, UNTRACKED, COMPILED):
        (logs / note).unlink(missing_ok=True)


def supervise_node(
    main: MainArgs,
    settings: LaunchSettings,
    *,
    logs: Path,
    watch: Callable[[TrainingProgress], None],
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Run a node's ranks from torchrun's start to its end; return whether this node was asked to stop meanwhile.

    Args:
        main: Arguments of the library.
        settings: The processes.
        logs: As in `launch`; it holds the ranks' settings already.
        watch: Called regularly with the progress.
        say: Called with a line that stays.
        check: Called regularly; an exception of it ends the ranks.

    Raises:
        StoppedElsewhere: Another node was asked to stop, and the state is saved.
        Preempted: This node was asked to stop, and its state is saved, or what it would have saved with was lost.
        RankLost: A rank was killed, hung or lost its connection.
        StageError: A rank failed.
    """
    nodes = settings.nodes
    worker = ["-m", "sft.adapters.instructlab.rank.worker", str(logs)]
    agent = [
        sys.executable,
        "-P",
        "-m",
        "sft.adapters.instructlab.torchrun_agent",
        str(logs / ERRORS / agent_file(nodes)),
    ]
    log = logs / (f"train_{nodes.rank}.log" if nodes.rank else "train.log")
    monitor = TrainingMonitor(logs, settings.stall_timeout_seconds, watch, say)

    def poll() -> None:
        monitor.poll()
        check()

    own = _environment(settings, main)
    if dropped := inherited.changing_numbers(os.environ, own):
        say(f"{inherited.told(dropped, 'the ranks')}; a recipe may say one in training.env")
    with _save_on_signal(logs / STOP, say) as signal_name, _for_compiled_code(settings, logs) as variables:
        try:
            status = supervise(
                [*agent, *_torchrun(settings, logs), *worker],
                log=log,
                env=own | variables,
                without=dropped,
                poll=poll,
                poll_seconds=0.5,
            )
            if status != 0:
                raise failure(logs / ERRORS, nodes, status, log)
        except RankLost as lost:
            if not signal_name():
                raise
            if not (logs / STOPPED).exists():  # else the others were only quicker to end
                unsure = f"{signal_name()}: ended before it was known whether the state is saved ({lost.message})"
                raise Preempted(f"{unsure}; the same command continues from the last one") from lost
    asked = signal_name()
    stopped = Preempted if asked or nodes.num == 1 else StoppedElsewhere
    why = asked or ("a request" if nodes.num == 1 else "another node was asked to stop")
    if (logs / STOPPED).exists():
        step = json.loads((logs / STOPPED).read_text(encoding="utf-8"))["step"]
        raise stopped(f"{why}: stopped after step {step}, its full state is saved; the same command continues")
    if nodes.rank:
        return bool(asked)  # node 0 handles the result, and may have moved it already
    if not (logs / FINISHED).exists():
        if asked and nodes.num > 1:  # whoever takes this node's place has removed the note
            raise Preempted(f"{asked}: stopped, its full state is saved; the same command continues")
        raise StageError(f"training ended without a model; its last lines:\n{tail(log)}", log=log)
    monitor.poll()  # the last steps
    if (logs / STOP).exists():
        raise stopped(f"{why}: training has just ended and is kept; the same command continues")
    return bool(asked)


def _torchrun(settings: LaunchSettings, logs: Path) -> list[str]:
    """Return torchrun's options. Ranks are never restarted one by one: all resume together from a full state."""
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
        return ["--standalone", "--local-addr", LOOPBACK, *processes]
    host, _, port = nodes.rendezvous.rpartition(":")
    rendezvous = [
        "--nnodes",
        str(nodes.num),
        "--node-rank",
        str(nodes.rank),
        "--master-addr",
        host,
        "--master-port",
        port,
    ]
    return [*rendezvous, *processes]


@contextlib.contextmanager
def _save_on_signal(stop: Path, say: Callable[[str], None]) -> Iterator[Callable[[], str]]:
    """Make signals that end a process ask the ranks to save and stop, until the block ends.

    Yield what returns the name of the signal that came; empty = none did.
    """
    received = [""]

    def ask(number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGHUP:
            leave_terminal()
        if received[0]:  # not "if there is a note": another node that is asked to stop writes it, too
            raise Preempted(f"{name}: ended at once; the same command continues from the last state")
        received[0] = name
        stop.touch()
        say(f"  {name}: saving the state after this step; send it again to end at once")

    numbers = ENDING if threading.current_thread() is threading.main_thread() else ()
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        yield lambda: received[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(settings: LaunchSettings, main: MainArgs) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(max(1, num_cpus() // settings.num_processes)),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # the model is local by now; nothing else may be downloaded
        "HF_DATASETS_CACHE": str(Path(main.output_dir) / "datasets"),  # otherwise a copy of the data stays in the home
        # malloc in huge pages, if Linux lets a program ask for them, makes training on a CPU an eighth faster.
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
        **(_on_loopback() if settings.nodes.num == 1 else {}),
        **_visible_gpus(settings.gpus),
        **settings.env,
        "TRUST_REMOTE_CODE": "1" if main.trust_remote_code else "0",
    }


@contextlib.contextmanager
def _for_compiled_code(settings: LaunchSettings, logs: Path) -> Iterator[dict[str, str]]:
    """Yield where this machine's ranks keep what torch compiles, and with how many processes, if layers are compiled.

    By itself torch takes a folder whose name others can guess, and runs what it finds there. It may be named by this
    process's variables, or the recipe's, to find there what an earlier training has compiled.
    """
    if not json.loads((logs / SETTINGS).read_text(encoding="utf-8"))["options"]["compile_layers"]:
        yield {}
        return
    own = {"TORCHINDUCTOR_COMPILE_THREADS": str(max(1, num_cpus() // settings.num_processes))}
    with scratch("compiled") as folder:
        own["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
        yield {name: settings.env.get(name, os.environ.get(name, value)) for name, value in own.items()}


def _visible_gpus(gpus: tuple[str, ...] | None) -> dict[str, str]:
    """Return what shows ranks as many GPUs as there are ranks, by which torch takes its groups of HYBRID_SHARD.

    CUDA counts the fastest GPU first unless it is told to count as the driver does, from which the ids come.
    """
    if gpus is None:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _on_loopback() -> dict[str, str]:
    """Return what keeps the ranks of one machine from listening to others, unless this process's variables say more."""
    loopback = [name for _, name in socket.if_nameindex() if name in {"lo", "lo0"}]
    variables = dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), loopback[0]) if loopback else {}
    return {name: os.environ.get(name, value) for name, value in variables.items()}


def checkpoint(output_dir: Path, num_samples: int) -> Path:
    """Return the folder of the finished model, which was saved after the last sample.

    Raises:
        StageError: There is none.
    """
    folder = output_dir / MODELS / f"samples_{num_samples}"
    if folder.is_dir():
        return folder
    saved = sorted(path.name for path in (output_dir / MODELS).glob("*"))
    raise StageError(
        f"training ended without a checkpoint after {num_samples} samples (saved: {', '.join(saved) or 'none'}); "
        "the trainer lost rows of the training split"
    )
