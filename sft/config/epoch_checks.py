"""Rules of `eval.every_epochs`. Pure, as `sft.config.checks` is."""

from __future__ import annotations

from collections.abc import Iterator

from sft.config.schema import HOLDOUT, RunConfig
from sft.errors import Problem


def check_epochs(cfg: RunConfig) -> Iterator[Problem]:
    """Yield what is wrong between the epochs that are scored, the training that keeps their models, and the scores."""
    evaluation, key, every = cfg.eval, "eval.every_epochs", cfg.eval.every_epochs
    if every is None:
        for name, value in {"epoch_tasks": evaluation.epoch_tasks, "epoch_holdouts": evaluation.epoch_holdouts}.items():
            if value:
                rule = "is read only with eval.every_epochs"
                yield Problem(key=f"eval.{name}", rule=rule, suggestion="try eval.every_epochs=1")
        return
    shown = str(every)
    if not evaluation.enabled:
        yield Problem(key=key, value=shown, rule="nothing is scored: eval.enabled=false")
    elif cfg.training.max_steps is not None:
        rule = f"needs whole epochs, and training.max_steps={cfg.training.max_steps} ends wherever it falls"
        yield Problem(key=key, value=shown, rule=rule, suggestion="try training.max_steps=null")
    elif every >= cfg.training.num_epochs:
        rule = f"scores no epoch before the last: training.num_epochs={cfg.training.num_epochs:.12g}"
        yield Problem(key=key, value=shown, rule=rule, suggestion="try null, or train longer")
    elif not cfg.training.checkpoint_at_epoch:
        rule, suggestion = "needs the models of the epochs", "try training.checkpoint_at_epoch=true"
        yield Problem(key=key, value=shown, rule=rule, suggestion=suggestion)
    named = {
        "epoch_tasks": (evaluation.epoch_tasks, evaluation.tasks, "eval.tasks"),
        "epoch_holdouts": (evaluation.epoch_holdouts or [], evaluation.held_out_names, "the held-out sets"),
    }
    for name, (chosen, known, what) in named.items():
        for one in chosen:
            if one not in known:
                rule = f"is not among {what}, on which the tuned model is scored"
                yield Problem(key=f"eval.{name}", value=one, rule=rule)
    chosen_sets = evaluation.held_out_names if evaluation.epoch_holdouts is None else evaluation.epoch_holdouts
    if not cfg.has_held_out_split:
        chosen_sets = [name for name in chosen_sets if name != HOLDOUT]
    if not evaluation.epoch_tasks and not chosen_sets:
        rule, suggestion = "nothing to score", "name a task in eval.epoch_tasks, or a set in eval.epoch_holdouts"
        yield Problem(key=key, value=shown, rule=rule, suggestion=suggestion)
