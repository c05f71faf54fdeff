"""Owns the trace of some optimizer steps: what ran when, on processor and device, as seen by torch's profiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sft.adapters.instructlab.layout import PROFILE
from sft.adapters.instructlab.settings import WorkerOptions
from sft.errors import StageError


@contextmanager
def tracing(options: WorkerOptions, logs: Path, num_steps: int, is_main: bool) -> Iterator[Profiler]:
    """Yield what traces the steps that were asked for, on the main rank, and write the trace at the end.

    Args:
        options: Say which steps.
        logs: Folder of the training's logs.
        num_steps: Of the whole training.
        is_main: Whether this is rank 0.

    Raises:
        StageError: The training has no such step.
    """
    first_step = options.profile_first_step
    if first_step and first_step > num_steps:
        raise StageError(
            f"training.profile.first_step={first_step}: the training has {num_steps} steps",
            fix="name one of them, or null for no trace",
        )
    profiler = Profiler(logs, first_step=first_step if is_main else None, num_steps=options.profile_num_steps)
    try:
        yield profiler
    finally:
        profiler.stop()


class Profiler:
    """Traces `num_steps` steps from step `first_step` on, each counted from 1, into ``<logs>/profile.json.gz``.

    The format is Chrome's, which Perfetto and TensorBoard read. A training that begins or ends within these steps has
    a trace of those that it makes.

    Args:
        logs: Folder of the training's logs.
        first_step: None = no trace.
        num_steps: Steps in the trace.
    """

    def __init__(self, logs: Path, *, first_step: int | None, num_steps: int) -> None:
        self._file = logs / PROFILE
        self._steps = range(first_step, first_step + num_steps) if first_step else range(0)
        self._running: Any = None

    def reached(self, num_steps: int) -> None:
        """Begin or end the trace after so many steps of the run."""
        if self._running is None and num_steps + 1 in self._steps:
            self._start()
        elif self._running is not None and num_steps + 1 not in self._steps:
            self.stop()

    def _start(self) -> None:
        import torch
        from torch.profiler import ProfilerActivity

        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._running = torch.profiler.profile(activities=activities, record_shapes=True)
        self._running.start()

    def stop(self) -> None:
        """Write the trace, if one is being made."""
        if self._running is not None:
            trace, self._running = self._running, None
            trace.stop()
            partial = self._file.with_name(f"part-{self._file.name}")
            trace.export_chrome_trace(str(partial))
            partial.replace(self._file)
