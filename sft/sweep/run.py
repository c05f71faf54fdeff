"""A sweep: every point checked and judged before the first runs, Hydra's launcher over the rest, one answer."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from sft import runner
from sft.adapters.os.gpu_slots import GpuSlots, slots
from sft.adapters.os.machine import gpus
from sft.config.hydra_app import QUIET, through_hydra
from sft.config.schema import RunConfig
from sft.errors import ConfigError, Preempted, Problem, SftError
from sft.planning.plan import steps_up_to
from sft.planning.resources import resolve_resources
from sft.progress import Progress
from sft.runner.rerun import RecordedRun
from sft.sweep import records as kept
from sft.sweep.point import Job, Origin, judge
from sft.sweep.records import Point, SweepRecord
from sft.sweep.spec import Sweep, check, is_better_when_higher, objective

_HERE = {"basic", "joblib"}
"""Launchers that run points on this machine, so that what it can do is known beforehand."""


def sweep(
    found: Sweep,
    *,
    source: Path,
    command: Sequence[str],
    until: str | None,
    earlier: RecordedRun | None = None,
    on_end: Callable[[Path, Progress], None],
) -> int:
    """Run a sweep; continue after a point that fails.

    Args:
        found: The sweep.
        source: What records name as the recipe.
        command: What was typed.
        until: The step or stage that is the last; None = all.
        earlier: The run that is repeated, if one is.
        on_end: Called with the sweep's folder, however it ended.

    Raises:
        ConfigError: Before anything runs.
        KeyboardInterrupt: It was interrupted; the same command goes on.
        SftError: A launcher's process was killed.
    """
    configs = check(found)
    name = objective(configs[0], until)
    if found.samples and "train" not in steps_up_to(configs[0], until):
        raise ConfigError([Problem(key="--until", value=until, rule="a sampler needs the score of a training")])
    found, parts = _told(found, configs[0], name)
    engine = [found.sweeper, *(text for text in found.own if "sweeper" in text)] if found.samples else []
    folder = kept.folder_of(configs[0], found.varied, engine).absolute()
    points = _judged(found, configs, until, parts) if _is_planned(found) else []
    progress = Progress()
    for line in _outlook(found, points, len(configs), folder):
        progress.say(line)
    job = Job(
        recipe=found.recipe,
        source=source,
        command=tuple(command),
        until=until,
        folder=folder,
        varied=tuple(found.varied),
        objective=name,
        higher_is_better=found.direction != "minimize",
        points=tuple(points),
        samples=found.samples,
        slots=parts,
        origin=Origin(
            os.getpid(), socket.gethostname(), found.launcher, logging.getLogger("sft").level == logging.DEBUG
        ),
        earlier=earlier,
    )
    if runner.is_worker_node(configs[0]):
        _launch(found, job)
        return 0
    record = SweepRecord(
        name=configs[0].name,
        status="running",
        recipe=str(source),
        command=list(command),
        cwd=str(Path.cwd()),
        sweeper=found.sweeper,
        launcher=found.launcher,
        varied=found.varied,
        objective=name,
        higher_is_better=is_better_when_higher(name),
        started_at=kept.now(),
    )
    kept.clear_points(folder)
    for point in points:
        point.save(folder)
    record.save(folder)
    try:
        _launch(found, job)
        record.status = "failed" if any(point.status == "failed" for point in kept.points(folder)) else "done"
    except KeyboardInterrupt:
        record.status = "interrupted"
        raise
    except BaseException:
        record.status = "failed"
        raise
    finally:
        record.ended_at = kept.now()
        record.save(folder)
        progress.say("")
        on_end(folder, progress)
    return _ended(kept.points(folder), progress)


def outlook(found: Sweep, configs: Sequence[RunConfig]) -> list[str]:
    """Return what a sweep would do, for a plan: how many points, and which of them not.

    Args:
        found: The sweep.
        configs: Its points.

    Raises:
        ConfigError: Its objective is never made, or there are fewer GPUs than points at once.
    """
    found, parts = _told(found, configs[0], objective(configs[0], None))
    points = _judged(found, configs, None, parts) if _is_planned(found) else []
    return _outlook(found, points, len(configs), Path(configs[0].run_root, "sweeps"))


def _is_planned(found: Sweep) -> bool:
    return not found.samples and found.launcher in _HERE


def _told(found: Sweep, cfg: RunConfig, name: str) -> tuple[Sweep, GpuSlots | None]:
    """Return the sweep with what Hydra is to be told besides: the sampler's direction, and how many points at once."""
    own = list(found.own)
    if found.samples and not found.direction:
        direction = "maximize" if is_better_when_higher(name) else "minimize"
        own.insert(0, f"hydra.sweeper.direction={direction}")
        found = replace(found, direction=direction)
    if found.launcher != "joblib":
        return replace(found, own=tuple(own)), None
    num = found.num_jobs or -1
    if num < 1:
        ranks = resolve_resources(cfg.training).num_processes
        num = len(gpus()) or max(1, (os.cpu_count() or 1) // ranks)
        own.append(f"hydra.launcher.n_jobs={num}")
    elif gpus() and num > len(gpus()):
        rule = f"must be at most the {len(gpus())} GPUs, or a point has none"
        raise ConfigError([Problem(key="hydra.launcher.n_jobs", value=str(num), rule=rule)])
    return replace(found, own=tuple(own), num_jobs=num), slots(num)


def _judged(found: Sweep, configs: Sequence[RunConfig], until: str | None, parts: GpuSlots | None) -> list[Point]:
    """Return every point, and note which of them are not to run."""
    points: list[Point] = []
    with parts.as_in(0) if parts else nullcontext():
        for overrides, cfg in zip(found.points(), configs, strict=True):
            given = (text.lstrip("+").partition("=") for text in overrides)
            values = {key: value for key, _, value in given if key in found.varied}
            point = kept.point(len(points) + 1, values, cfg)
            if cfg.sweep.skip_infeasible:
                judge(point, cfg, until, points, parts.num if parts else 1)
            points.append(point)
    return points


def _outlook(found: Sweep, points: Sequence[Point], num_points: int, folder: Path) -> list[str]:
    if found.samples:
        return [f"{found.sweeper} looks at {', '.join(found.varied)}"]
    if found.launcher not in _HERE:
        return [f"sweep of {num_points} points; what each says lies in {folder}/submitit"]
    left_out = [point for point in points if point.status != "pending"]
    total = f"sweep of {len(points)} points"
    if not left_out:
        return [total]
    lines = [f"- {point.title}: {point.reason}" for point in left_out]
    more = "sweep.skip_infeasible=false runs all of them"
    return [f"{total}, {len(points) - len(left_out)} to run; {more}", *lines]


def _launch(found: Sweep, job: Job) -> None:
    """Hand the sweep to Hydra.

    Raises:
        SftError: A launcher's process was killed.
    """
    with tempfile.TemporaryDirectory(prefix="sft-sweep-") as scratch:  # Hydra's own copies, with all overrides in clear
        own = [f"hydra.sweep.dir={scratch}"]
        if found.is_written:
            own.append("hydra.sweeper.params=null")  # they are among the overrides by now, as Hydra wants them
        if found.launcher.startswith("submitit"):
            own.append(f"hydra.launcher.submitit_folder='{job.folder}/submitit/%j'")
        try:
            through_hydra(found.recipe, ["--multirun"], [*QUIET, *own, *found.own, *found.overrides], job)
        except Exception as error:
            points = kept.points(job.folder)
            if found.samples and points and all(point.objective is None for point in points):
                return  # Optuna's "no trials are completed yet"; each point has said why
            if found.launcher == "basic":
                raise
            text = " ".join(str(error).split())
            raise SftError(f"hydra/launcher={found.launcher}: {text}", fix="the same command goes on") from error
        finally:
            for pickled in (job.folder / "submitit").glob("*/*.pkl"):  # they hold the overrides in clear
                pickled.unlink()
            if (literal := job.folder / "submitit" / "%j").is_dir():  # submitit makes it and never uses it
                literal.rmdir()


def _ended(points: Sequence[Point], progress: Progress) -> int:
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
