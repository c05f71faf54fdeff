"""Rules of what is validated while a training goes on. Pure, as `checks` is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sft.config.nearest import nearest
from sft.config.schema import RunConfig
from sft.errors import Problem

NEEDS_SAMPLES = "needs samples to validate on"
GIVE_SAMPLES = "try training.validation_split=0.05, or a set of eval.holdouts in training.validation_sets"
_SETS = "training.validation_sets"


def check_validation(cfg: RunConfig) -> Iterator[Problem]:
    """Yield what is wrong with what is validated, and with when."""
    training, known = cfg.training, list(cfg.eval.holdouts)
    if training.validation_frequency and not training.validates():
        key, value = "training.validation_frequency", str(training.validation_frequency)
        yield Problem(key=key, value=value, rule=NEEDS_SAMPLES, suggestion=GIVE_SAMPLES)
    for name, times in Counter(training.validation_sets).items():
        if times > 1:
            yield Problem(key=_SETS, value=name, rule="is named twice")
        if name not in known:
            rule = f"is no set of eval.holdouts, which has {', '.join(known) or 'none'}"
            suggestion = nearest(name, known) or f"say where its rows are: eval.holdouts.{name}.uri=FILE"
            yield Problem(key=_SETS, value=name, rule=rule, suggestion=suggestion)
        elif name in cfg.dataset.sources:
            rule = f"is one of dataset.sources too, so that validation_loss.{name} would have two meanings"
            yield Problem(key=_SETS, value=name, rule=rule, suggestion="rename the set in eval.holdouts")
