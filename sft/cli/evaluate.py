"""`sft eval`: the scores of one model, without training anything.

Shares the store with runs: what one of them scored as its base model is not scored again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sft import runner
from sft.artifacts import EvalReport
from sft.config import compose
from sft.config.compose import Recipe
from sft.errors import ConfigError, Problem
from sft.progress import Progress
from sft.report.run import score_lines

_STEP = "evaluate:base"
_NOT_TRAINED = [
    *("eval.every_epochs=null", "eval.epoch_tasks=[]", "eval.epoch_holdouts=null"),
    *("training.select.metric=null", "training.select.mode=null"),
    *("training.early_stopping.patience=null", "training.early_stopping.min_delta=0"),
]
"""What a recipe says of the models on the way is about a training, of which there is none."""


_COMPARED = ("eval.gates", "eval.no_regression", "eval.judge")
"""Settings that hold a model against another one, or against a number."""
_UNREAD = ("registry", "sweep", "training.")
_TOKENIZES = tuple(
    f"training.{name}"
    for name in ("max_seq_len", "max_tokens_per_gpu", "train_on", "train_on_reasoning", "on_too_long")
)


def execute(model: str, recipe: str | None, overrides: Sequence[str], command: Sequence[str]) -> int:
    """Score a model and print its scores.

    Args:
        model: Its folder, or a hub id.
        recipe: Whose tasks and dataset are taken; None = the defaults, and no held-out split unless there is a dataset.
        overrides: Settings.
        command: All that was typed.

    Raises:
        ConfigError: A setting is wrong, or would hold the model against something.
        SftError: A stage failed.
    """
    keys = [text.partition("=")[0].lstrip("+~").replace("/", ".") for text in overrides]
    if compared := [key for key in keys if key.startswith(_COMPARED)]:
        rule, fix = (
            "is not for `sft eval`, which scores one model and compares nothing",
            "sft run holds it against gates",
        )
        raise ConfigError([Problem(key=key, rule=rule, suggestion=fix) for key in compared])
    base = compose.find_recipe(recipe) if recipe else Recipe(compose.shipped("conf") / "config.yaml")
    settings = ["model=hub", f"model.name_or_path={model}", "registry=none", "eval.baseline=true", "eval.gates={}"]
    settings += _NOT_TRAINED
    has_data = bool(recipe) or any(text.startswith("dataset") for text in overrides)
    if not has_data:
        settings += ["dataset.uri=", "eval.holdout.enabled=false"]
    name = re.sub(r"[^\w.-]+", "-", model).strip("-")[-40:]
    cfg = compose.compose(base, [f"name=eval-{name}", *settings, *overrides], needs_data=has_data)
    if not cfg.eval.tasks and not cfg.eval.holdout.enabled and not cfg.eval.holdouts:
        suggestion = "name a task, or a dataset.uri whose held-out split is scored, or a set in eval.holdouts"
        raise ConfigError([Problem(key="eval.tasks", rule="nothing to score", suggestion=suggestion)])
    progress = Progress()
    for note in _notes(base, keys):
        progress.say(f"- {note}")
    result = runner.run(cfg, recipe=base.path, command=command, progress=progress, goal=_STEP)
    report = result.artifacts[_STEP]
    if isinstance(report, EvalReport):
        progress.say("")
        for line in score_lines(report, None, None):
            progress.say(line)
        progress.say(f"\nreport      {report.root}")
    return 0


def _notes(recipe: Recipe, keys: Sequence[str]) -> Iterator[str]:
    """Yield what is said, by the recipe or on the command line, and not done."""
    for key in keys:
        if key.startswith(_UNREAD) and not key.startswith(_TOKENIZES):
            yield f"{key}: not read, since nothing is trained or registered"
    try:
        asked = compose.compose(recipe, [], needs_data=False).eval
    except ConfigError:  # it needs what the command line says
        yield f"gates of {recipe.name}: not checked, if it has any, since one model is scored and nothing is compared"
        return
    for key, is_set in (("gates", asked.gates), ("no_regression", asked.no_regression), ("judge", asked.judge.address)):
        if is_set:
            yield f"eval.{key} of {recipe.name}: not checked, since one model is scored and nothing is compared"
