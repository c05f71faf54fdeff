"""One point of a sweep, as Hydra's launcher calls it: here, in another process, or on another machine.

So it is plain data that can be pickled; it sets up in its process what the command line has set up in the first one;
and what becomes of the point it leaves in the point's file (`sft.sweep.records`). It never raises an `SftError`: Hydra
would end the sweep.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sft import logs, runner
from sft.adapters.os.child import die_with
from sft.adapters.os.command import ended_by_signals
from sft.adapters.os.gpu_slots import GpuSlots
from sft.artifacts import Artifact, CheckpointArtifact, EvalReport
from sft.config import compose
from sft.config.compose import Recipe
from sft.config.schema import EvalBackend, RunConfig
from sft.errors import ConfigError, Problem, SftError, StageError
from sft.planning import estimate
from sft.planning.plan import steps_up_to
from sft.planning.resources import resources_of
from sft.progress import Progress
from sft.runner import RunResult
from sft.runner.rerun import RecordedRun
from sft.stages.judge import judges_of
from sft.sweep import records
from sft.sweep.records import Point

_SLURM = "submitit_slurm"


@dataclass(frozen=True)
class Origin:
    """The process that sweeps, and how it starts the others."""

    process: int
    host: str
    launcher: str
    debug: bool

    def is_here(self) -> bool:
        """Return whether this process is it."""
        return (self.process, self.host) == (os.getpid(), socket.gethostname())

    @property
    def waits_for_each(self) -> bool:
        """Whether a point that is interrupted is its own affair, as on a cluster, where each may be preempted."""
        return self.launcher.startswith("submitit")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every point of a sweep shares; called with a point's composition, it does the point.

    Attributes:
        recipe: Of the sweep.
        source: What the record names as the recipe.
        command: What was typed.
        until: The step or stage that is the last; None = all.
        folder: The sweep's, absolute.
        varied: Keys that vary.
        objective: The score that is returned.
        higher_is_better: Its direction, as the sampler was told.
        points: As they were judged beforehand, in order; empty where each is judged when its turn comes.
        write_page: Called with what a run has made, and with the error that ended it, if one did.
        samples: Whether a sampler waits for the score, also of a point whose work another one does.
        slots: Parts of this machine, where several points share it.
        origin: The process that sweeps.
        earlier: The run that is repeated, if one is.
    """

    recipe: Recipe
    source: Path
    command: tuple[str, ...]
    until: str | None
    folder: Path
    varied: tuple[str, ...]
    objective: str
    higher_is_better: bool
    write_page: Callable[[RunResult, SftError | None], object]
    points: tuple[Point, ...] = ()
    samples: bool = False
    slots: GpuSlots | None = None
    origin: Origin
    earlier: RecordedRun | None = None

    def __call__(self, composed: DictConfig) -> float | None:
        """Run a point and return its objective; None if it has none.

        Raises:
            KeyboardInterrupt: The sweep is to end.
        """
        number = HydraConfig.get().job.num + 1
        if self.origin.is_here():
            return self._do(number, composed, Progress())
        with _set_up(self.origin), self.slots.acquire(self.folder / ".slots") if self.slots else nullcontext():
            compose.prepare(self.recipe)
            try:
                return self._do(number, composed, Progress(label=f"{number}|"))
            except KeyboardInterrupt:  # its file says so
                if self.origin.waits_for_each:
                    return None
                raise

    def _do(self, number: int, composed: DictConfig, progress: Progress) -> float | None:
        values = self._values()
        try:
            cfg = compose.to_run_config(composed, self.recipe)
        except ConfigError as error:  # of a sampler alone: the other points were checked before
            broken = Point(number=number, values=values, run="", config={})
            self._failed(broken, error)
            return None
        point = self.points[number - 1] if self.points else records.point(number, values, cfg)
        judged = bool(self.points)
        if judged and point.status != "pending":  # it has been said
            return None
        if cfg.sweep.skip_infeasible and not (judged and self.slots):  # beside others, free memory says nothing
            check_point(point, cfg, self.until, () if judged else self._others(), self._at_once)
        total = f"/{len(self.points)}" if self.points else ""
        progress.say(f"\n[{number}{total}: {' '.join(f'{key}={value}' for key, value in values.items())}]")
        if point.status in {"skipped", "same"}:
            return self._left_out(point, progress)
        if runner.is_worker_node(cfg):
            runner.run_worker_node(cfg, progress=progress, goal=self.until)
            return None
        return self._run(point, cfg, progress)

    def _run(self, point: Point, cfg: RunConfig, progress: Progress) -> float | None:
        point.status, point.started_at = "running", records.now()
        point.save(self.folder)
        try:
            refuse_server_backend(cfg)
            result = runner.run(
                cfg,
                recipe=self.source,
                command=self.command,
                progress=progress,
                goal=self.until,
                on_failure=lambda made, error: self._page(made, error, progress),
            )
            self._page(result, None, progress)
            if "train" in result.artifacts:
                direction = self.higher_is_better if self.samples else None
                point.objective = score(result.artifacts, self.objective, direction)
        except SftError as error:
            self._failed(point, error)
            return None
        except KeyboardInterrupt as stopped:
            point.status, point.reason = "interrupted", str(stopped) or "interrupted"
            point.exit_code = getattr(stopped, "exit_code", 130)
            self._end(point)
            raise
        except BaseException as error:  # a bug; Hydra shows it when the others are done
            self._failed(point, error)
            raise
        point.status, point.reason, point.exit_code = "done", None, 0
        self._end(point)
        for line in self.earlier.comparison(result.record) if self.earlier else ():
            progress.say(line)
        if point.objective is not None:
            progress.say(f"{self.objective} {point.objective:.4f}")
        return point.objective

    def _page(self, made: RunResult, error: SftError | None, progress: Progress) -> None:
        try:
            self.write_page(made, error)
        except OSError as fault:
            progress.say(f"{made.folder}: its page can't be written: {fault.strerror}")

    def _left_out(self, point: Point, progress: Progress) -> float | None:
        progress.say(f"- {point.reason}")
        point.save(self.folder)
        if not self.samples:
            return None
        return next((other.objective for other in records.points(self.folder) if other.number == point.twin), None)

    def _failed(self, point: Point, error: BaseException) -> None:
        point.status = "failed"
        problems = [str(problem) for problem in error.problems] if isinstance(error, ConfigError) else []
        point.reason = "\n".join(problems) or str(error.message if isinstance(error, SftError) else error)
        point.exit_code = error.exit_code if isinstance(error, SftError) else 1
        self._end(point)
        logs.print_error(error)

    def _end(self, point: Point) -> None:
        point.ended_at = records.now()
        point.save(self.folder)

    def _values(self) -> dict[str, str]:
        """Return what varies, as Hydra gives it to this point."""
        given = (text.lstrip("+").partition("=") for text in HydraConfig.get().overrides.task)
        return {key: value for key, _, value in given if key in self.varied}

    def _others(self) -> list[Point]:
        """Return points that may do this one's work: all; for a sampler, which waits for a score, those that ended."""
        points = records.points(self.folder)
        return [point for point in points if point.status in {"done", "failed"}] if self.samples else points

    @property
    def _at_once(self) -> int:
        return self.slots.num if self.slots else 1


def check_point(point: Point, cfg: RunConfig, until: str | None, others: Sequence[Point], num_at_once: int) -> None:
    """Note that a point is not to run, and why, if that is so.

    Args:
        point: It.
        cfg: Its configuration.
        until: The step or stage that is the last.
        others: Points that were judged before.
        num_at_once: Points that share this machine.
    """
    point.work = runner.work_digest(cfg, until)
    twin = next(
        (other for other in others if other.work == point.work and other.status not in {"same", "skipped"}), None
    )
    if twin is not None and twin.number != point.number:
        keys = tuple(key.replace("/", ".") for key in point.values)
        why = "; ".join(note for note in resources_of(cfg).notes if note.startswith(keys))
        point.status, point.twin = "same", twin.number
        point.reason = f"the same work as point {twin.number}" + (f" ({why})" if why else "")
    elif "train" in steps_up_to(cfg, until) and (lack := estimate.why_too_large(cfg, num_at_once)):
        point.status, point.reason = "skipped", lack


def score(made: Mapping[str, Artifact], name: str, higher_is_better: bool | None) -> float:
    """Return the objective of a run.

    Args:
        made: What its steps made.
        name: Of the score.
        higher_is_better: Its direction, as a sampler was told; None without one.

    Raises:
        StageError: There is no such score, or it goes the other way.
    """
    trained, report = made.get("train"), made.get("evaluate:tuned")
    if name == "train.loss" and isinstance(trained, CheckpointArtifact):
        return trained.final_loss
    found = report.score(name) if isinstance(report, EvalReport) else None
    found = next((judge.score for judge in judges_of(made) if judge.score.name == name), found)
    if found is None:
        known = [one.name for one in report.scores] if isinstance(report, EvalReport) else []
        raise StageError(
            f"sweep.objective={name}: there is no such score", fix=f"one of {', '.join(['train.loss', *known])}"
        )
    if higher_is_better is not None and found.higher_is_better != higher_is_better:
        better, say = ("higher", "maximize") if found.higher_is_better else ("lower", "minimize")
        raise StageError(f"sweep.objective={name} is better when it is {better}", fix=f"hydra.sweeper.direction={say}")
    return found.value


def refuse_server_backend(cfg: RunConfig) -> None:
    """Refuse to score a server: it has some model already, not the one that this run will train.

    Raises:
        ConfigError: It is asked for scores.
    """
    if cfg.eval.enabled and cfg.eval.backend is EvalBackend.local_chat_completions:
        rule = "scores what a server has, not what this run trains"
        value, suggestion = cfg.eval.backend.name, "score it with `sft eval` once it is served"
        raise ConfigError([Problem(key="eval.backend", value=value, rule=rule, suggestion=suggestion)])


@contextmanager
def _set_up(origin: Origin) -> Iterator[None]:
    """Set up another process, which a launcher has started, as the command line set up the first."""
    if origin.launcher != _SLURM:
        die_with(origin.process)
    logs.configure(debug=origin.debug)
    preempting = {signal.SIGUSR2: _preempted} if origin.waits_for_each else {}
    with ended_by_signals(preempting):
        yield


def _preempted(_signum: int, _frame: FrameType | None) -> None:
    """Pass on SIGUSR2, submitit's word that time is up (job_environment.py:_usr_sig@1.5), as SIGUSR1: it saves."""
    os.kill(os.getpid(), signal.SIGUSR1)
