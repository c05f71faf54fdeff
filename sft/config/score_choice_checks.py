"""Rules of `training.select` where a score chooses among the models of epochs. Pure, as `checks` is."""

from __future__ import annotations

from collections.abc import Iterator

from sft.config.schema import HOLDOUT, RunConfig, SelectMode
from sft.config.schema.selection import METRIC
from sft.errors import Problem
from sft.scores import JUDGE, is_better_when_higher

_METRIC, _MODE = "training.select.metric", "training.select.mode"


def check_score_choice(cfg: RunConfig, score: str) -> Iterator[Problem]:
    """Yield what keeps a score from choosing among the models of epochs.

    Args:
        cfg: The configuration.
        score: As gates name it: ``task.metric``.
    """
    patience = cfg.training.early_stopping.patience
    if patience is not None:
        rule = f"can't end a training by {score}, which is scored once it has ended"
        suggestion = f"leave it out, or try {_METRIC}={METRIC}"
        yield Problem(key="training.early_stopping.patience", value=str(patience), rule=rule, suggestion=suggestion)
    task, _, metric = score.partition(".")
    if task == JUDGE:
        rule = "is no score of one model: a judge compares the finished one with the base model"
        yield _problem(score, rule, f"choose by {METRIC}, or by a score of a held-out set or task")
    elif not metric:
        yield _problem(score, f"must be {METRIC}, or name a score: task.metric", f"try {METRIC}, or {HOLDOUT}.loss")
    elif not cfg.eval.enabled:
        yield _problem(score, "nothing is scored: eval.enabled=false")
    elif cfg.eval.every_epochs is None:
        rule = "chooses among the models of epochs, and only the last one's is scored"
        yield _problem(score, rule, "try eval.every_epochs=1")
    elif task in {HOLDOUT, *cfg.eval.holdouts}:
        yield from _of_held_out_set(cfg, score)
    elif not cfg.eval.epoch_tasks:
        yield _problem(score, "the models of epochs are scored on no task", f"try eval.epoch_tasks=[{task}]")


def _problem(score: str, rule: str, suggestion: str | None = None) -> Problem:
    return Problem(key=_METRIC, value=score, rule=rule, suggestion=suggestion)


def _of_held_out_set(cfg: RunConfig, score: str) -> Iterator[Problem]:
    """Yield why a held-out set has no such score of the models of epochs, or that the wrong end of it is asked for."""
    task, _, metric = score.partition(".")
    known, mode = cfg.eval.holdout.scored(), cfg.training.select.mode
    if task == HOLDOUT and not cfg.has_held_out_split:
        yield _problem(score, "no rows are held out: dataset.train_split=1", "try dataset.train_split=0.9")
    elif task not in cfg.eval.of_epochs().held_out_names:
        where = "eval.epoch_holdouts" if task in cfg.eval.held_out_names else "eval.holdout.enabled=false"
        yield _problem(score, f"the models of epochs are not scored on it: see {where}")
    elif metric not in known:
        yield _problem(score, f"the held-out set has no such score; it is scored for {', '.join(known)}")
    elif mode is not None and (mode is SelectMode.max) != is_better_when_higher(score):
        rule = f"would choose the worst: {score} is better when it is {_better(score)}"
        yield Problem(key=_MODE, value=mode.value, rule=rule, suggestion="try null")


def _better(score: str) -> str:
    return "higher" if is_better_when_higher(score) else "lower"


def choice_notes(cfg: RunConfig) -> Iterator[str]:
    """Yield among which models a score, or the loss of held-out sets, chooses, and what that does to scores."""
    select, epochs, sets = cfg.training.select, cfg.scored_epochs(), cfg.training.choosing_sets()
    if select.score and epochs:
        among, chose = f"epochs {', '.join(map(str, epochs[:-1]))} and {epochs[-1]}", select.score.partition(".")[0]
    elif sets and cfg.eval.enabled:
        among, chose = "the steps that are validated", ", ".join(sets)
    else:
        return
    yield (
        f"{_METRIC}={select.metric}: the model is the best one by it of {among}, so scores on {chose} "
        "will be optimistic; unbiased are those on a set or task that chose nothing"
    )
