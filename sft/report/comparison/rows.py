"""Runs side by side: what varied, what came of it, what it cost. Reads records, metrics and a sweep's points."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from sft import record, runner
from sft.adapters.instructlab.layout import METRICS
from sft.artifacts import LOGS_NAME
from sft.errors import ConfigError, DataError, Problem
from sft.record import RunRecord, StepRecord
from sft.report.comparison.groups import TRAIN_LOSS
from sft.report.comparison.ranking import ranked
from sft.report.comparison.table import Cell, Comparison, Row
from sft.scores import JUDGE, is_better_when_higher
from sft.sweep import records as kept
from sft.sweep.records import Point, SweepRecord

_MOST_CURVE_POINTS = 400
_OTHER_VERSION = "`sft verify` says whether it is damaged, or of another version of sft"
_NOT_COMPARED = ("name", "registry.")
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]


def compare(folders: Sequence[Path], by: str | None = None) -> Comparison:
    """Read runs and rank them; leave out what has none, where others have.

    Args:
        folders: Of runs, of sweeps, or run roots.
        by: The score to sort by; None = the sweep's, else ``holdout.loss`` or ``train.loss``.

    Raises:
        DataError: There is no run.
        ConfigError: No run has the score that `by` names.
    """
    sweeps: list[SweepRecord] = []
    rows: list[Row] = []
    configs: list[Mapping[str, Any]] = []
    skipped: list[str] = []
    unreadable: list[str] = []
    known: set[str] = set()
    for folder in folders:
        found = [*_of(folder, unreadable)]
        if not found:
            skipped.append(str(folder))
        for sweep, row, config in found:
            if sweep is not None and sweep not in sweeps:
                sweeps.append(sweep)
            if row.run and os.path.realpath(row.folder) in known:  # named before, perhaps as a point of a sweep
                continue
            rows.append(row)
            configs.append(config)
        known |= {os.path.realpath(row.folder) for row in rows}
    if unreadable and not rows:
        raise DataError("; ".join(f"{name}: can't be read" for name in unreadable), fix=_OTHER_VERSION)
    if skipped and not rows:
        fix = record.nearest_run(Path(skipped[0]), "a run's folder, a sweep's folder, or a run root")
        raise DataError(f"{', '.join(skipped)}: no {record.NAME}, no {kept.NAME} and no runs there", fix=fix)
    is_sweep = len(sweeps) == 1 and len(folders) == 1
    if is_sweep:
        title, keys = sweeps[0].name, list(sweeps[0].varied)
    else:
        title = ", ".join(dict.fromkeys(str(config.get("name", "run")) for config in configs))
        keys = _vary(rows, configs)
        for number, row in enumerate(rows, 1):
            row.number = number
    objective = by or next((sweep.objective for sweep in sweeps), None) or _usual(rows)
    for row in rows:
        cell = row.scores.get(objective)
        row.objective = row.train_loss if objective == TRAIN_LOSS else cell.value if cell else None
    scores = sorted({TRAIN_LOSS, *(name for row in rows for name in row.scores)})
    if by and by not in scores:
        raise ConfigError([Problem(key="--by", value=by, rule=f"no run has this score; there are {', '.join(scores)}")])
    cells = (row.scores[objective] for row in rows if objective in row.scores)
    higher = next((cell.higher_is_better for cell in cells), is_better_when_higher(objective))
    groups = ranked(rows, objective, higher)
    return Comparison(
        title=title,
        is_sweep=is_sweep,
        objective=objective,
        higher_is_better=higher,
        keys=keys,
        rows=rows,
        groups=groups,
        skipped=skipped,
        unreadable=unreadable,
    )


def _of(folder: Path, unreadable: list[str]) -> Iterator[tuple[SweepRecord | None, Row, Mapping[str, Any]]]:
    """Yield the rows of one folder, each with its sweep and its settings; note those of a root that can't be read."""
    if (folder / kept.NAME).is_file():
        sweep = kept.load(folder)
        for point in kept.points(folder):
            yield sweep, _of_point(point, folder.absolute().parents[1]), point.config
        return
    if (folder / record.NAME).is_file():
        runs = [folder]
    else:
        found = [(file.parent, record.load(file.parent)) for file in sorted(folder.glob(f"*/{record.NAME}"))]
        unreadable += [str(path / record.NAME) for path, rec in found if rec is None]
        begun = [(rec.started_at, path) for path, rec in found if rec and any(s.name == "train" for s in rec.steps)]
        runs = [path for _, path in sorted(begun)]
    for number, run in enumerate(runs, 1):
        rec = record.load(run)
        if rec is None:
            raise DataError(f"{run / record.NAME}: can't be read", fix=_OTHER_VERSION)
        row = Row(number=number, run=run.name, folder=str(run.absolute()), values={}, status=rec.status)
        _fill(row, rec, run.absolute())
        yield None, row, rec.config


def _of_point(point: Point, root: Path) -> Row:
    folder = root / point.run
    row = Row(number=point.number, run=point.run, folder=str(folder), values=point.values, status=point.status)
    row.reason = point.reason
    rec = record.load(folder) if point.run and point.status not in {"skipped", "same"} else None
    if rec is not None:
        _fill(row, rec, folder)
        if point.status == "failed":  # also where the run went well and its score is missing
            row.status, row.reason = "failed", point.reason
    return row


def _fill(row: Row, rec: RunRecord, folder: Path) -> None:
    """Fill in what a run's record and metrics say."""
    row.status = rec.status
    if rec.status == "running" and not runner.is_running(folder):
        row.status = "interrupted"
    failed = next((step for step in rec.steps if step.status == "failed"), None)
    row.reason = f"{failed.name}: {failed.error}" if failed and rec.status == "failed" else None
    steps = {step.name: step for step in rec.steps if step.output}
    if trained := steps.get("train"):
        row.train_loss, row.train_seconds = trained.facts["final_loss"], trained.seconds or 0.0
        _measure(row, folder.parent / "store" / "train" / str(trained.key) / LOGS_NAME / METRICS)
    if tuned := steps.get("evaluate:tuned"):
        row.scores = _cells(tuned, steps.get("evaluate:base"), steps.get("compare"))
    judged = [step.facts["score"] for name, step in steps.items() if name.partition(":")[0] == JUDGE]
    row.scores |= _cells_of(judged, {}, {})
    scoring = steps["evaluate:tuned"].seconds if "evaluate:tuned" in steps else None
    costs = [seconds for seconds in (row.train_seconds, scoring) if seconds is not None]
    row.seconds = sum(costs) if costs else None


class _Step(msgspec.Struct, kw_only=True):
    """What is read of a row of ``metrics.jsonl``."""

    step: _Count
    loss: float | None
    seconds: Annotated[float, msgspec.Meta(ge=0.0)]
    validation_seconds: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    num_tokens: _Count
    memory_bytes: _Count


def _measure(row: Row, metrics: Path) -> None:
    if not metrics.is_file():  # pruned
        return
    try:
        lines = [msgspec.json.decode(line, type=_Step) for line in metrics.read_bytes().splitlines()]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        row.reason = row.reason or f"{metrics}: unreadable ({error})"
        return
    if not lines:
        return
    seconds = sum(line.seconds for line in lines)
    spent = seconds + sum(line.validation_seconds for line in lines)
    row.train_seconds = max(row.train_seconds or 0.0, spent)  # a training that was resumed counts its last try alone
    speed = sum(line.num_tokens for line in lines) / seconds if seconds else math.nan
    row.tokens_per_second = speed if math.isfinite(speed) else None
    row.memory_bytes = max(line.memory_bytes for line in lines)
    every = -(-len(lines) // _MOST_CURVE_POINTS)
    row.curve = [(line.step, line.loss) for line in [*lines[:-1:every], lines[-1]] if line.loss is not None]


def _cells(tuned: StepRecord, base: StepRecord | None, comparison: StepRecord | None) -> dict[str, Cell]:
    verdicts = {one["score"]: one["verdict"] for one in comparison.facts["changes"]} if comparison else {}
    before = {_name(score): score["value"] for score in base.facts["scores"]} if base else {}
    return _cells_of(tuned.facts["scores"], before, verdicts)


def _cells_of(
    scores: Sequence[Mapping[str, Any]], before: Mapping[str, float], verdicts: Mapping[str, str]
) -> dict[str, Cell]:
    return {
        _name(score): Cell(
            value=score["value"],
            stderr=score["stderr"],
            base=before.get(_name(score)),
            higher_is_better=score["higher_is_better"],
            verdict=verdicts.get(_name(score)),
        )
        for score in scores
    }


def _name(score: Mapping[str, Any]) -> str:
    return f"{score['task']}.{score['metric']}"


def _usual(rows: Sequence[Row]) -> str:
    return "holdout.loss" if any("holdout.loss" in row.scores for row in rows) else TRAIN_LOSS


def _vary(rows: Iterable[Row], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Note in each row the settings that differ between runs."""
    flat = [dict(_flat(config, "")) for config in configs]
    names = dict.fromkeys(name for one in flat for name in one)
    keys = [
        name for name in names if not name.startswith(_NOT_COMPARED) and len({one.get(name, "") for one in flat}) > 1
    ]
    for row, one in zip(rows, flat, strict=True):
        row.values = {key: one.get(key, "") for key in keys}
    return keys


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else msgspec.json.encode(value).decode()
