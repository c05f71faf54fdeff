"""Refuses gates that can't be judged, as early as it is known: from the tasks' files, the samples, the base's scores.

What the settings alone say, `sft.config.checks` refuses.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sft import sample_values
from sft.adapters.evaluation.task_scores import TaskScores, task_scores
from sft.artifacts import EvalReport
from sft.config.schema import HOLDOUT, EvalConfig, SelectConfig
from sft.errors import ConfigError, Problem, StageError
from sft.gate_rules import GateKind, parse_gates
from sft.scores import JUDGE
from sft.stages.evaluate import HeldOutSet
from sft.stages.gates import NUMBER_ITSELF, existing

_NO_ERROR = "it has no error, as a score of one sample or of a whole corpus"


def check_task_scores(cfg: EvalConfig) -> None:
    """Refuse gates on scores that the tasks of a recipe don't give, as their YAML files say. Imports nothing heavy.

    Where only code can tell, as of a task with its own `process_results`, the base model's scores do (`check_gates`).

    Raises:
        ConfigError: A gate names a task that is not scored, a metric that it is not scored for, or one without an error
            where an error is asked for.
    """
    gated = [*_gated(cfg)]
    if problems := [*_impossible(gated, cfg.tasks, "eval.tasks", cfg)]:
        raise ConfigError(problems)


def check_chosen_score(cfg: EvalConfig, select: SelectConfig) -> None:
    """Refuse a choice of an epoch by a score that the tasks of the epochs don't give, as their YAML files say.

    Args:
        cfg: The evaluation settings.
        select: What chooses.

    Raises:
        ConfigError: No epoch is scored on its task, or none for its metric.
    """
    if select.score is None or select.score.partition(".")[0] in {HOLDOUT, *cfg.holdouts}:
        return
    wanted = _Gated("training.select.metric", select.score, select.score, is_tested=False)
    if problems := [*_impossible([wanted], cfg.epoch_tasks, "eval.epoch_tasks", cfg)]:
        raise ConfigError(problems)


def check_objective(cfg: EvalConfig, score: str) -> None:
    """Refuse an objective of a sweep that the tasks don't give, as their YAML files say.

    Args:
        cfg: The evaluation settings.
        score: ``task.metric``.

    Raises:
        ConfigError: Its task is not scored, or not for its metric.
    """
    if score.partition(".")[0] in {"train", JUDGE, HOLDOUT, *cfg.holdouts}:
        return
    wanted = _Gated("sweep.objective", score, score, is_tested=False)
    if problems := [*_impossible([wanted], cfg.tasks, "eval.tasks", cfg)]:
        raise ConfigError(problems)


def _impossible(wanted: Sequence[_Gated], tasks: Sequence[str], key: str, cfg: EvalConfig) -> Iterator[Problem]:
    """Yield what is wanted of scores that tasks don't give, as far as their files say.

    Args:
        wanted: Gates, or the like.
        tasks: That are scored.
        key: Of the setting that names them.
        cfg: The evaluation settings.
    """
    named = {one.score.partition(".")[0] for one in wanted}
    if not named:
        return
    folder = Path(cfg.include_path).expanduser() if cfg.include_path is not None else None
    scored = task_scores(named if named <= {*tasks} else tasks, folder)
    if scored is not None:
        for one in wanted:
            yield from _problems(one, scored, key)


@dataclass(frozen=True)
class _Gated:
    """A gate on a task.

    Attributes:
        key: Of the setting.
        value: That it has.
        score: ``task.metric``, or a task alone.
        is_tested: Whether it needs an error.
    """

    key: str
    value: str
    score: str
    is_tested: bool


def _gated(cfg: EvalConfig) -> Iterator[_Gated]:
    others = {JUDGE, HOLDOUT, *cfg.holdouts}
    for name, rules in cfg.gates.items():
        if name.partition(".")[0] not in others:
            yield _Gated(f"eval.gates.{name}", rules, name, _is_tested(rules))
    for name in cfg.no_regression:
        if name.partition(".")[0] not in others:
            yield _Gated("eval.no_regression", name, name, True)


def _is_tested(rules: str) -> bool:
    return any(gate.kind is GateKind.improvement for gate in parse_gates(rules))


def _problems(gate: _Gated, scored: Mapping[str, TaskScores], tasks_key: str) -> Iterator[Problem]:
    task, dot, metric = gate.score.partition(".")
    scores = scored.get(task)
    suggestion = None
    if scores is None:
        rule = f"{tasks_key} does not score {task}"
        known = [name for name, of in scored.items() if of.means or not of.is_complete]
        close = difflib.get_close_matches(task, known, n=3, cutoff=0.0)
        suggestion = f"add it there, or name {' or '.join(close)}" if close else "add it there"
    elif (dot and not scores.has(metric)) or (scores.is_complete and not scores.means):
        listed = ", ".join(scores.names()) or "nothing: its tasks have scores of their own"
        rule = f"{task} has no such score; it is scored for {listed}"
    elif gate.is_tested and all(map(scores.has_no_error, [metric] if dot else scores.means)) and scores.is_complete:
        rule = f"needs an error, and {metric or ', '.join(scores.means)} of {task} has none: it is no mean over samples"
        suggestion = "try a gate on the number itself, as '>= 0.6'"
    else:
        return
    yield Problem(key=gate.key, value=gate.value, rule=rule, suggestion=suggestion)


def check_samples(cfg: EvalConfig, held_out: Sequence[HeldOutSet]) -> None:
    """Refuse gates on held-out sets that have too few samples, before any model is scored.

    Args:
        cfg: The evaluation settings.
        held_out: Those sets whose samples are known.

    Raises:
        StageError: A set has none, or one where an error is asked for.
    """
    needed: dict[str, tuple[str, int]] = {}
    for name, rules in cfg.gates.items():
        task, least = name.partition(".")[0], 2 if _is_tested(rules) else 1
        if least > needed.get(task, ("", 0))[1]:
            needed[task] = f"eval.gates.{name}", least
    needed |= {name.partition(".")[0]: ("eval.no_regression", 2) for name in cfg.no_regression}
    for one in held_out:
        key, least = needed.get(one.name, ("", 0))
        if one.num_samples < least:
            has = f"{one.name} has {'one sample' if one.num_samples else 'no sample'} that can be scored"
            why = f", and {_NO_ERROR}" if one.num_samples else ""
            raise StageError(f"{key} can't be judged: {has}{why}", fix="more rows, or leave that gate out")


def check_gates(cfg: EvalConfig, baseline: EvalReport) -> None:
    """Refuse gates that can't be judged, as the base model's scores show before anything is trained.

    Raises:
        StageError: A score does not exist, or has no error where one is asked for.
    """
    values = sample_values.read(baseline.root)
    tested = {name for name, one in values.items() if len(set(one.clusters or one.units)) > 1}
    for name, rules in cfg.gates.items():
        if name.partition(".")[0] == JUDGE:
            continue
        if baseline.score(name) is None:
            raise StageError(f"eval.gates: there is no score {name}", fix=existing(name, baseline.names))
        if name not in tested and any(gate.kind is GateKind.improvement for gate in parse_gates(rules)):
            raise StageError(f"eval.gates: an improvement of {name} can't be judged: {_NO_ERROR}", fix=NUMBER_ITSELF)
    for name in cfg.no_regression:
        scores = {score.name for score in baseline.scores if name in (score.task, score.name)}
        if not scores:
            raise StageError(f"eval.no_regression: there is no score of {name}", fix=existing(name, baseline.names))
        if not scores & tested:
            raise StageError(f"eval.no_regression: {name} can't be judged: {_NO_ERROR}", fix=NUMBER_ITSELF)


def check_choice(select: SelectConfig, baseline: EvalReport) -> None:
    """Refuse a choice of an epoch by a score that there is not, as the base model's show before anything is trained.

    Raises:
        StageError: There is no such score.
    """
    if select.score is not None and baseline.score(select.score) is None:
        message = f"training.select.metric: there is no score {select.score}"
        raise StageError(message, fix=existing(select.score, baseline.names))
