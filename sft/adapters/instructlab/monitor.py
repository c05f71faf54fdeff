"""Owns watching a training from its parent process: the ranks' metrics and notes, and whether they still write."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.layout import ADAPTERS, COMPILED, METRICS, RESUMED, STACKS, UNTRACKED, VALIDATION_LOSS
from sft.errors import StageError

_STACK_SECONDS = 5.0
_SHOWN_FRAMES = 4
_SHOWN_NAMES = 4


class RankLost(StageError):
    """A rank was killed, hung or lost its connection: the next attempt may succeed."""


class RankKilled(RankLost):
    """A rank of this machine was killed, as for want of memory: the loss is this machine's own, not the others'."""


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is.

    Attributes:
        row: The newest row of ``metrics.jsonl``.
        num_steps: Steps of the whole run.
        num_epochs: Those that the whole run begins.
        seconds_left: Remaining time, at the mean speed since the ranks were started.
    """

    row: dict[str, Any]
    num_steps: int
    num_epochs: int
    seconds_left: float

    @property
    def line(self) -> str:
        """The newest step, in words."""
        row, left = self.row, round(self.seconds_left)
        validation = f", validation loss {row[VALIDATION_LOSS]:.4f}{_by_name(row)}" if VALIDATION_LOSS in row else ""
        utilisation = f", {row['mfu']:.0%} MFU" if "mfu" in row else ""
        return (
            f"step {row['step']}/{self.num_steps}, epoch {row['epoch'] + 1}/{self.num_epochs}, loss {row['loss']:.4f}"
            f"{validation}, lr {row['learning_rate']:.2e}, {row['tokens_per_second']:.0f} tokens/s "
            f"({row['loss_tokens_per_second']:.0f} for the loss){utilisation}, "
            f"{row['memory_bytes'] / 2**30:.1f} GiB, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        )


def _by_name(row: Mapping[str, Any]) -> str:
    """Return the validation losses of sets and sources, of a few at most: `` (gold 1.2345, chat 2.3456)``."""
    named = [(key.partition(".")[2], value) for key, value in row.items() if key.startswith(f"{VALIDATION_LOSS}.")]
    shown = ", ".join(f"{name} {value:.4f}" for name, value in named[:_SHOWN_NAMES])
    return f" ({shown}{', …' if len(named) > _SHOWN_NAMES else ''})" if named else ""


class TrainingMonitor:
    """Reads what the ranks write.

    Args:
        logs: Folder in which they write.
        stall_timeout_seconds: Longest time in which nothing of the run changes.
        watch: Called with each new state.
        say: Called with a line that stays.
    """

    def __init__(
        self,
        logs: Path,
        stall_timeout_seconds: float,
        watch: Callable[[TrainingProgress], None],
        say: Callable[[str], None],
    ) -> None:
        self._logs = logs
        self._timeout = stall_timeout_seconds
        self._watch = watch
        self._say = say
        self._began_at = time.time()
        self._next_check = time.monotonic() + stall_timeout_seconds
        self._start: dict[str, Any] | None = None
        self._offset = 0
        self._first: tuple[float, int] | None = None
        self._row: dict[str, Any] = {}
        self._lost: dict[str, str] = {}
        self._said_of_compiling: set[str] = set()

    def poll(self) -> None:
        """Read what is new.

        Raises:
            RankLost: Nothing of the run has changed for too long.
        """
        if self._start is None and (self._logs / RESUMED).exists():
            self._start = json.loads((self._logs / RESUMED).read_text(encoding="utf-8"))
            for line in self._start["damaged"]:
                self._say(f"  {line}; it is not used")
            for line in self._start["slower"]:
                self._say(f"  {line}")
            if (self._logs / ADAPTERS).exists():
                self._say_what_is_adapted(json.loads((self._logs / ADAPTERS).read_text(encoding="utf-8")))
            if self._start["step"]:
                self._say(f"  resumes after step {self._start['step']}, in epoch {self._start['epoch'] + 1}")
            self._offset = (self._logs / METRICS).stat().st_size if self._start["step"] else 0
        if self._start is not None:
            self._read(self._start)
        if not self._lost and (self._logs / UNTRACKED).exists():
            self._lost = json.loads((self._logs / UNTRACKED).read_text(encoding="utf-8"))
            for tracker, error in self._lost.items():
                self._say(f"  {tracker} gets no more rows: {error}")
        if (self._logs / COMPILED).exists():
            self._say_what_was_compiled(json.loads((self._logs / COMPILED).read_text(encoding="utf-8")))
        if time.monotonic() >= self._next_check:
            self._check_stall()

    def _say_what_is_adapted(self, facts: dict[str, Any]) -> None:
        whole = f", and all of {', '.join(facts['saved_whole'])}" if facts["saved_whole"] else ""
        in_layers = f"{facts['num_adapters']} adapters ({', '.join(facts['adapted'])})"
        self._say(f"  trains {facts['num_trained']:,} parameters: {in_layers}{whole}")
        if facts["not_adapted"]:
            self._say(f"  not adapted: {', '.join(facts['not_adapted'])}")
        if facts.get("num_quantized"):
            size = f"{facts['quantized_bytes'] / 2**20:,.1f} MiB on each rank"
            self._say(f"  the base is in 4 bits: {facts['num_quantized']} matrices, {size}")

    def _say_what_was_compiled(self, report: dict[str, Any]) -> None:
        """Say once that layers were compiled, and each reason for which torch has left a part of a layer out."""
        lines = {} if self._said_of_compiling else {"": f"  layers are compiled: it took {report['seconds']:.0f} s"}
        lines |= {why: f"  not compiled, {num} times: {why}" for why, num in report["breaks"].items()}
        for why, line in lines.items():
            if why not in self._said_of_compiling:
                self._say(line)
        self._said_of_compiling |= {"", *report["breaks"]}

    def _read(self, start: dict[str, Any]) -> None:
        try:
            with (self._logs / METRICS).open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:  # no step yet; or node 0 has moved the result
            return
        whole = new[: new.rfind(b"\n") + 1]
        if not whole:
            return
        self._offset += len(whole)
        self._row = json.loads(whole.splitlines()[-1])
        now, step = time.monotonic(), self._row["step"]
        self._first = self._first or (now, step)
        began, first = self._first
        num_steps = start["num_steps"]
        mean_seconds = (now - began) / (step - first) if step > first else self._row["seconds"]
        self._watch(TrainingProgress(self._row, num_steps, start["num_epochs"], mean_seconds * (num_steps - step)))

    def _check_stall(self) -> None:
        """Raise `RankLost` if no file of the run has changed for too long."""
        quiet_seconds = time.time() - max(last_change(self._logs.parent), self._began_at)
        if quiet_seconds < self._timeout:
            self._next_check = time.monotonic() + self._timeout - quiet_seconds
            return
        after = f"after step {self._row['step']}" if self._row else "before the first step"
        raise RankLost(
            f"training hangs: nothing was written for {quiet_seconds:.0f} seconds {after}\n{self._stacks()}",
            fix="look at the stack that differs from the others; raise training.stall_timeout_seconds if the run "
            "is only slow",
            log=self._logs / "train.log",
        )

    def _stacks(self) -> str:
        """Return where each rank is, as the ranks write it after they have made no step for as long."""
        files = sorted((self._logs / STACKS).glob("rank_*.txt"), key=lambda path: int(path.stem.removeprefix("rank_")))
        deadline = time.monotonic() + _STACK_SECONDS
        while time.monotonic() < deadline and not all(path.stat().st_size for path in files):
            time.sleep(0.1)
        return "\n".join(f"  {path.stem.replace('_', ' ')}: {_innermost(path)}" for path in files)


def last_change(folder: Path) -> float:
    """Return the newest modification time of a file in the folder, in seconds since 1970; stacks don't count."""
    newest = 0.0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # an old state was removed meanwhile
            if path.parent.name != STACKS and path.is_file():
                newest = max(newest, path.stat().st_mtime)
    return newest


def _innermost(stack: Path) -> str:
    """Return the innermost frames of a rank's main thread, which Python writes last."""
    frames = stack.read_text(encoding="utf-8").rpartition("(most recent call first):")[2].splitlines()
    shown = [frame.strip() for frame in frames if frame.strip()][:_SHOWN_FRAMES]
    return "".join(f"\n    {frame}" for frame in shown) or "no answer; it is stopped, or stuck in the kernel"
