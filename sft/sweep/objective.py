"""The score that a sweep's points are compared by: which it is, whether each point has it, and which way is better."""

from __future__ import annotations

from collections.abc import Sequence

from sft.config.checks import held_out_metrics
from sft.config.judge_checks import win_rate
from sft.config.schema import HOLDOUT, RunConfig
from sft.errors import ConfigError, Problem
from sft.planning.plan import steps_up_to
from sft.scores import JUDGE, WIN_RATE, is_better_when_higher
from sft.stages.gate_checks import check_objective

_TRAIN_LOSS = "train.loss"
_DIRECTIONS = ("minimize", "maximize")


def objective(configs: Sequence[RunConfig], until: str | None) -> str:
    """Return the name of the score that points are compared by; where none is named, one that each of them has.

    Args:
        configs: Of every point.
        until: The step or stage that is the last.

    Raises:
        ConfigError: That score is never made, by one of them.
    """
    names, problems = [], dict[str, Problem]()
    for cfg in configs:
        try:
            names.append(_objective(cfg, until))
        except ConfigError as error:
            problems |= {str(problem): problem for problem in error.problems}
    if problems:
        raise ConfigError([*problems.values()])
    return _TRAIN_LOSS if _TRAIN_LOSS in names else names[0]


def direction_of(name: str, asked: str, cfg: RunConfig) -> str:
    """Return which way a sampler is to look.

    Args:
        name: Of the score.
        asked: What the recipe or an override says; empty where nobody does.
        cfg: Of a point.

    Raises:
        ConfigError: It would look for the worst, or in a way that there is not.
    """
    better = _DIRECTIONS[is_better_when_higher(name)]
    is_known = name.partition(".")[0] in {"train", JUDGE, HOLDOUT, *cfg.eval.holdouts}  # a task says it in its file
    if asked and asked not in (_DIRECTIONS if not is_known else [better]):
        rule = f"sweep.objective={name} is better when it is {'higher' if better == 'maximize' else 'lower'}"
        suggestion = f"hydra.sweeper.direction={better}, or leave it out"
        raise ConfigError([Problem(key="hydra.sweeper.direction", value=asked, rule=rule, suggestion=suggestion)])
    return asked or better


def _objective(cfg: RunConfig, until: str | None) -> str:
    """Return the name of the score that a point is compared by.

    Args:
        cfg: Of a point.
        until: The step or stage that is the last.

    Raises:
        ConfigError: That score is never made.
    """
    scored = "evaluate:tuned" in steps_up_to(cfg, until)
    sets = {name: held_out_metrics(cfg.eval, name) for name in (HOLDOUT, *cfg.eval.holdouts)}
    if not cfg.has_held_out_split:
        sets[HOLDOUT] = ()
    name = cfg.sweep.objective
    if name is None:
        return "holdout.loss" if scored and "loss" in sets[HOLDOUT] else _TRAIN_LOSS
    task, dot, metric = name.partition(".")
    key, rule, fix = "sweep.objective", "", None
    if not dot:
        rule, fix = "must name a score: task.metric", f"try {name}.acc"
    elif name != _TRAIN_LOSS and not scored:
        rule, fix = "nothing is scored", "try train.loss"
    elif task in sets and metric not in sets[task]:
        rule = f"the held-out set has no such score; it is scored for {', '.join(sets[task]) or 'nothing'}"
    elif task == JUDGE:
        judged = [win_rate(one) for one in cfg.eval.judged_names]
        if name not in judged or not any(step.partition(":")[0] == JUDGE for step in steps_up_to(cfg, until)):
            rule = f"only a judge that is asked gives a score, {' or '.join(judged) or f'{JUDGE}.{WIN_RATE}'}"
            fix = "set eval.judge.address"
    elif task not in {"train", *sets} and not cfg.eval.tasks:
        rule, fix = "eval.tasks is empty", f"try eval.tasks=[{task}]"
    elif task == "train" and name != _TRAIN_LOSS:
        rule, fix = "the training has no such score", "try train.loss"
    if rule:
        raise ConfigError([Problem(key=key, value=name, rule=rule, suggestion=fix)])
    check_objective(cfg.eval, name)
    return name
