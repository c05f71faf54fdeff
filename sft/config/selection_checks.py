"""Rules of the choice of a step, of early stopping, and of how many models are kept. Pure, as `checks` is.

What a choice by a score needs is in `sft.config.score_choice_checks`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from sft.config.schema import RunConfig, SelectMode, TrainingConfig
from sft.config.schema.selection import METRIC, EarlyStoppingConfig
from sft.config.score_choice_checks import check_score_choice
from sft.config.validation_checks import GIVE_SAMPLES, NEEDS_SAMPLES
from sft.errors import Problem

_SELECT, _EARLY = "training.select", "training.early_stopping"


def check_selection(cfg: RunConfig) -> Iterator[Problem]:
    """Yield what is wrong with what a step is chosen by, and with how many models are kept."""
    training = cfg.training
    metric, patience = training.select.validated, training.early_stopping.patience
    if metric is not None:
        yield from _metric(cfg, metric)
    elif training.select.score is not None:
        yield from check_score_choice(cfg, training.select.score)
    elif patience is not None:
        rule, suggestion = "needs a metric that may stop improving", f"try {_SELECT}.metric={METRIC}"
        yield Problem(key=f"{_EARLY}.patience", value=str(patience), rule=rule, suggestion=suggestion)
    if patience is not None and cfg.eval.every_epochs is not None and training.select.score is None:
        rule = "may end a training before the epochs that eval.every_epochs scores"
        yield Problem(key=f"{_EARLY}.patience", value=str(patience), rule=rule, suggestion="leave one of them out")
    yield from _limit(cfg)


def _metric(cfg: RunConfig, metric: str) -> Iterator[Problem]:
    training, key, name = cfg.training, f"{_SELECT}.metric", metric.partition(".")[2]
    sources, sets = list(cfg.dataset.sources), training.validation_sets
    if name and name not in {*sources, *sets}:
        rule = f"names no source and no set that is validated: dataset.sources has {', '.join(sources) or 'none'}, "
        rule += f"training.validation_sets {', '.join(sets) or 'none'}"
        known = ", ".join([METRIC, *(f"{METRIC}.{own}" for own in (*sources, *sets))])
        added = f"try training.validation_sets=[{', '.join([*sets, name])}]"
        suggestion = added if name in cfg.eval.holdouts else f"choose from {known}"
        yield Problem(key=key, value=metric, rule=rule, suggestion=suggestion)
    elif name in sources and not training.validation_split:
        rule = f"{NEEDS_SAMPLES} that are of {name}"
        yield Problem(key=key, value=metric, rule=rule, suggestion="try training.validation_split=0.05")
    elif not training.validates():
        yield Problem(key=key, value=metric, rule=NEEDS_SAMPLES, suggestion=GIVE_SAMPLES)
    if training.fsdp.version == 1:
        rule = "needs FSDP2, whose weights can be kept beside the training"
        yield Problem(key=key, value=metric, rule=rule, suggestion="try training.fsdp.version=2")


def _limit(cfg: RunConfig) -> Iterator[Problem]:
    """Yield why so few models can't be kept."""
    training, limit = cfg.training, cfg.training.checkpoint_limit
    if limit is None:
        return
    key, value = "training.checkpoint_limit", str(limit)
    if not training.checkpoint_at_epoch and not training.save_samples:
        rule = "keeps nothing: no model is saved on the way"
        yield Problem(key=key, value=value, rule=rule, suggestion="try training.checkpoint_at_epoch=true")
    # With a choice the last epoch's model is one on the way, too.
    num_epochs = math.ceil(training.num_epochs) - (training.select.validated is None)
    if cfg.eval.every_epochs is not None and (training.save_samples or limit < num_epochs):
        rule = f"leaves not all of the models of {num_epochs} epochs on the way, some of which are to be scored"
        yield Problem(key=key, value=value, rule=rule, suggestion="try null")


def unread_selection(cfg: TrainingConfig) -> Iterator[str]:
    """Yield a line for each setting of the choice that is not read, or that is more likely a mistake."""
    if cfg.select.metric is None and cfg.select.mode is not None:
        yield f"{_SELECT}.mode={cfg.select.mode.value}: not read with {_SELECT}.metric=null"
    elif cfg.select.validated is not None and cfg.select.mode is SelectMode.max:
        yield f"{_SELECT}.mode=max: chooses the step with the highest loss"
    if cfg.early_stopping.patience is None and cfg.early_stopping.min_delta != EarlyStoppingConfig().min_delta:
        yield f"{_EARLY}.min_delta={cfg.early_stopping.min_delta}: not read with {_EARLY}.patience=null"
