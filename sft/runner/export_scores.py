"""Score what was exported as the run's own model was scored: the same samples, tasks and gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from sft import record
from sft.adapters.os import machine
from sft.artifacts import EvalReport, JudgeReport, digest_of, hash_files
from sft.config.schema import EvalBackend, RunConfig
from sft.errors import GateError, StageError
from sft.planning.environment import Environment
from sft.planning.plan import Step, build_plan
from sft.progress import Progress
from sft.redaction import redacted
from sft.runner.dispatch import evaluate_inputs, judge_inputs, pick
from sft.runner.finished_run import FinishedRun
from sft.scores import JUDGE
from sft.stages.compare import CompareInputs, compare
from sft.stages.evaluate import evaluate, tasks_version
from sft.stages.export_card import ExportScores
from sft.stages.gates import GatesInputs, gates
from sft.stages.judge import judge
from sft.stages.scoring import vllm_version

TUNED, BASE = "evaluate:tuned", "evaluate:base"


def check_scorable(cfg: RunConfig, run: FinishedRun) -> None:
    """Refuse what would only be missed once an export is written.

    Raises:
        StageError: The run's model was scored by a server, which doesn't have the export.
        ConfigError: A task is gone.
    """
    if TUNED in run.artifacts:
        if cfg.eval.backend is EvalBackend.local_chat_completions:
            message = f"{run.folder}: its model was scored by a server (eval.backend), which does not have the export"
            raise StageError(message, fix="a run that was scored with eval.backend=hf or vllm")
        tasks_version(cfg.eval)


def score_export(cfg: RunConfig, run: FinishedRun, model_dir: Path, work: Path, progress: Progress) -> ExportScores:
    """Return how an export compares with the run's model, and whether it passes the run's gates.

    Args:
        cfg: The run's settings.
        run: Whose held-out split, tasks, scores and gates are taken.
        model_dir: The export, read back as a model's folder.
        work: Private folder.
        progress: Told of each score.

    Raises:
        SftError: It could not be scored, or a gate can't be held against its score.
    """
    if TUNED not in run.artifacts:
        return ExportScores()
    step = _step(cfg)
    inputs = evaluate_inputs(step, cfg, run.artifacts)
    inputs = replace(inputs, model_dir=model_dir, model_digest=digest_of(hash_files(model_dir)), answers=None)
    report = evaluate(cfg.eval, inputs, _made(work / "evaluate"), progress)
    tuned = pick(run.artifacts, TUNED, EvalReport)
    comparison = compare(cfg.eval, CompareInputs(baseline=tuned, report=report), _made(work / "compare"), progress)
    scores = ExportScores(
        tuned=tuned, report=report, comparison=comparison, otherwise=tuple(_otherwise(step, run.record))
    )
    if "gates" not in run.artifacts:
        return scores
    base = pick(run.artifacts, BASE, EvalReport) if BASE in run.artifacts else None
    against_base = None
    if base:
        quiet = Progress(quiet=True)
        against_base = compare(cfg.eval, CompareInputs(baseline=base, report=report), _made(work / "base"), quiet)
    held = GatesInputs(
        baseline=base,
        report=report,
        comparison=against_base,
        judges=tuple(_judges(cfg, run, report, work, progress)),
    )
    try:
        passed = gates(cfg.eval, held, _made(work / "gates"), progress).passed
    except GateError as error:
        return replace(scores, missed=error.missed)
    return replace(scores, passed=passed)


def _step(cfg: RunConfig) -> Step:
    """Return the evaluation's step as it is here and now."""
    environment = Environment(
        tasks_version=tasks_version(cfg.eval),
        vllm_version=vllm_version(cfg.eval),
        device=machine.device(),
        versions=record.versions(),
    )
    return next(step for step in build_plan(cfg, environment).steps if step.name == TUNED)


def _judges(
    cfg: RunConfig, run: FinishedRun, report: EvalReport, work: Path, progress: Progress
) -> Iterator[JudgeReport]:
    """Yield the judge's reports of the export, where a gate asks for one: a judge costs, so else it isn't asked."""
    if any(name.partition(".")[0] == JUDGE for name in cfg.eval.gates):
        for name in cfg.eval.judged_names:
            inputs = judge_inputs(name, {**run.artifacts, TUNED: report})
            yield judge(cfg.eval, inputs, _made(work / f"judge-{name}"), progress)


def _otherwise(step: Step, run_record: record.RunRecord) -> Iterator[str]:
    """Yield what determines a score and is otherwise than when the run's model was scored."""
    then = _flat(run_record.step(TUNED).settings)
    now = _flat(redacted(msgspec.to_builtins(step.settings)))
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            yield f"{key} {then.get(key, 'absent')} → {now.get(key, 'absent')}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
