"""A sweep: every point checked and judged before the first runs, Hydra's launcher over the rest, one answer."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from sft import runner
from sft.adapters.os.cgroup import num_cpus
from sft.adapters.os.gpu_slots import GpuSlots, slots
from sft.adapters.os.machine import gpus
from sft.config.hydra_app import call_through_hydra
from sft.config.schema import RunConfig
from sft.errors import ConfigError, Preempted, Problem, SftError
from sft.files import make_folder
from sft.planning.plan import steps_up_to
from sft.planning.resources import resolve_resources
from sft.progress import Progress
from sft.runner import RunResult
from sft.runner.rerun import RecordedRun
from sft.runner.run_lock import run_lock
from sft.scores import is_better_when_higher
from sft.scratch import scratch
from sft.sweep import records
from sft.sweep.objective import direction_of, objective
from sft.sweep.point import Job, Origin, check_point
from sft.sweep.records import Point, SweepRecord
from sft.sweep.spec import Sweep, check

_HERE = {"basic", "joblib"}
"""Launchers that run points on this machine, so that what it can do is known beforehand."""


def run_sweep(
    sweep: Sweep,
    *,
    source: Path,
    command: Sequence[str],
    until: str | None,
    earlier: RecordedRun | None = None,
    write_page: Callable[[RunResult, SftError | None], object],
    on_end: Callable[[Path, Progress], None],
) -> int:
    """Run a sweep; continue after a point that fails.

    Args:
        found: The sweep.
        source: What records name as the recipe.
        command: What was typed.
        until: The step or stage that is the last; None = all.
        earlier: The run that is repeated, if one is.
        write_page: Called with what each point's run has made, and with the error that ended it, if one did; in
            whatever process runs the point.
        on_end: Called with the sweep's folder, however it ended.

    Raises:
        ConfigError: Before anything runs.
        KeyboardInterrupt: It was interrupted; the same command goes on.
        SftError: A launcher's process was killed.
    """
    configs = check(sweep)
    name = objective(configs, until)
    if sweep.samples and "train" not in steps_up_to(configs[0], until):
        raise ConfigError([Problem(key="--until", value=until, rule="a sampler needs the score of a training")])
    sweep, slots_of_machine = _with_hydra_defaults(sweep, configs[0], name)
    engine = [sweep.sweeper, *(text for text in sweep.own if "sweeper" in text)] if sweep.samples else []
    folder = records.folder_of(configs[0], sweep.varied, engine).absolute()
    points = _checked_points(sweep, configs, until, slots_of_machine) if _is_planned(sweep) else []
    progress = Progress()
    for line in _preview(sweep, points, len(configs), folder):
        progress.say(line)
    job = Job(
        recipe=sweep.recipe,
        source=source,
        command=tuple(command),
        until=until,
        folder=folder,
        varied=tuple(sweep.varied),
        objective=name,
        higher_is_better=sweep.direction != "minimize",
        write_page=write_page,
        points=tuple(points),
        samples=sweep.samples,
        slots=slots_of_machine,
        origin=Origin(
            os.getpid(), socket.gethostname(), sweep.launcher, logging.getLogger("sft").level == logging.DEBUG
        ),
        earlier=earlier,
    )
    if runner.is_worker_node(configs[0]):
        _launch(sweep, job)
        return 0
    record = SweepRecord(
        name=configs[0].name,
        status="running",
        recipe=str(source),
        command=list(command),
        cwd=str(Path.cwd()),
        sweeper=sweep.sweeper,
        launcher=sweep.launcher,
        varied=sweep.varied,
        objective=name,
        higher_is_better=is_better_when_higher(name),
        started_at=records.now(),
    )
    make_folder(folder)
    with run_lock(folder, progress):  # else each of two would take the other's points for its own
        _run_points(sweep, job, record, on_end, progress)
        return _end(records.points(folder), progress)


def _run_points(
    sweep: Sweep, job: Job, record: SweepRecord, on_end: Callable[[Path, Progress], None], progress: Progress
) -> None:
    """Launch a sweep, and keep its state however it ends."""
    records.clear_points(job.folder)
    for point in job.points:
        point.save(job.folder)
    record.save(job.folder)
    try:
        _launch(sweep, job)
        record.status = "failed" if any(point.status == "failed" for point in records.points(job.folder)) else "done"
    except KeyboardInterrupt:
        record.status = "interrupted"
        raise
    except BaseException:
        record.status = "failed"
        raise
    finally:
        record.ended_at = records.now()
        record.save(job.folder)
        progress.say("")
        on_end(job.folder, progress)


def preview_sweep(sweep: Sweep, configs: Sequence[RunConfig]) -> list[str]:
    """Return what a sweep would do, for a plan: how many points, and which of them not.

    Args:
        found: The sweep.
        configs: Its points.

    Raises:
        ConfigError: Its objective is never made, is looked for the wrong way, or GPUs are fewer than points at once.
    """
    sweep, slots_of_machine = _with_hydra_defaults(sweep, configs[0], objective(configs, None))
    points = _checked_points(sweep, configs, None, slots_of_machine) if _is_planned(sweep) else []
    return _preview(sweep, points, len(configs), Path(configs[0].run_root, "sweeps"))


def _is_planned(sweep: Sweep) -> bool:
    return not sweep.samples and sweep.launcher in _HERE


def _with_hydra_defaults(sweep: Sweep, cfg: RunConfig, name: str) -> tuple[Sweep, GpuSlots | None]:
    """Return the sweep with what Hydra is to be told besides: the sampler's direction, and how many points at once."""
    own = list(sweep.own)
    if sweep.samples:
        direction = direction_of(name, sweep.direction, cfg)
        own[:0] = [] if sweep.direction else [f"hydra.sweeper.direction={direction}"]
        sweep = replace(sweep, direction=direction)
    if sweep.launcher != "joblib":
        return replace(sweep, own=tuple(own)), None
    num = sweep.num_jobs or -1
    if num < 1:
        ranks = resolve_resources(cfg.training).num_processes
        num = len(gpus()) or max(1, num_cpus() // ranks)
        own.append(f"hydra.launcher.n_jobs={num}")
    elif gpus() and num > len(gpus()):
        rule = f"must be at most the {len(gpus())} GPUs, or a point has none"
        raise ConfigError([Problem(key="hydra.launcher.n_jobs", value=str(num), rule=rule)])
    return replace(sweep, own=tuple(own), num_jobs=num), slots(num)


def _checked_points(
    sweep: Sweep, configs: Sequence[RunConfig], until: str | None, slots_of_machine: GpuSlots | None
) -> list[Point]:
    """Return every point, and note which of them are not to run."""
    points: list[Point] = []
    with slots_of_machine.restricted_to(0) if slots_of_machine else nullcontext():
        for overrides, cfg in zip(sweep.points(), configs, strict=True):
            given = (text.lstrip("+").partition("=") for text in overrides)
            values = {key: value for key, _, value in given if key in sweep.varied}
            point = records.point(len(points) + 1, values, cfg)
            if cfg.sweep.skip_infeasible:
                check_point(point, cfg, until, points, slots_of_machine.num if slots_of_machine else 1)
            points.append(point)
    return points


def _preview(sweep: Sweep, points: Sequence[Point], num_points: int, folder: Path) -> list[str]:
    if sweep.samples:
        return [f"{sweep.sweeper} looks at {', '.join(sweep.varied)}"]
    if sweep.launcher not in _HERE:
        return [f"sweep of {num_points} points; what each says lies in {folder}/submitit"]
    left_out = [point for point in points if point.status != "pending"]
    total = f"sweep of {len(points)} points"
    if not left_out:
        return [total]
    lines = [f"- {point.title}: {point.reason}" for point in left_out]
    more = "sweep.skip_infeasible=false runs all of them"
    return [f"{total}, {len(points) - len(left_out)} to run; {more}", *lines]


def _launch(sweep: Sweep, job: Job) -> None:
    """Hand the sweep to Hydra.

    Raises:
        SftError: A launcher's process was killed.
    """
    with scratch("sweep") as folder:  # Hydra's own copies, with all overrides in clear
        own = [f"hydra.sweep.dir={folder}"]
        if sweep.is_written:
            own.append("hydra.sweeper.params=null")  # they are among the overrides by now, as Hydra wants them
        if sweep.launcher.startswith("submitit"):
            own.append(f"hydra.launcher.submitit_folder='{job.folder}/submitit/%j'")
        try:
            call_through_hydra(sweep.recipe, ["--multirun"], [*own, *sweep.own, *sweep.overrides], job)
        except Exception as error:
            points = records.points(job.folder)
            if sweep.samples and points and all(point.objective is None for point in points):
                return  # Optuna's "no trials are completed yet"; each point has said why
            if sweep.launcher == "basic":
                raise
            text = " ".join(str(error).split())
            raise SftError(f"hydra/launcher={sweep.launcher}: {text}", fix="the same command goes on") from error
        finally:
            for pickled in (job.folder / "submitit").glob("*/*.pkl"):  # they hold the overrides in clear
                pickled.unlink()
            if (literal := job.folder / "submitit" / "%j").is_dir():  # submitit makes it and never uses it
                literal.rmdir()


def _end(points: Sequence[Point], progress: Progress) -> int:
    """Return the exit status, once what failed is named.

    Raises:
        Preempted: A point on a cluster was.
    """
    failed = [point for point in points if point.status == "failed"]
    for point in failed:
        progress.say(f"failed: {point.title}")
    counts = Counter(point.status for point in points)
    if failed:
        return 1
    if counts["interrupted"] or counts["running"]:
        raise Preempted(f"{counts['interrupted'] + counts['running']} points were stopped; the same command continues")
    return 0
