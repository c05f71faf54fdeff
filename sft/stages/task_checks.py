"""Refuses settings of lm-eval's tasks that would do nothing to any of them, as their YAML files say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sft.adapters.evaluation.task_scores import task_scores
from sft.config.schema import EvalConfig
from sft.errors import ConfigError, Problem


def check_task_settings(cfg: EvalConfig) -> None:
    """Refuse settings that no task reads. Imports nothing heavy.

    Where some tasks read them, the evaluation says which don't (`sft.adapters.evaluation.task_notes`).

    Raises:
        ConfigError: Examples are asked for, and every task says that it has none; or it is said how texts are written,
            and no task has any written.
    """
    if cfg.enabled and cfg.tasks and (cfg.num_fewshot or cfg.gen_kwargs) and (problems := [*_problems(cfg)]):
        raise ConfigError(problems)


def _problems(cfg: EvalConfig) -> Iterator[Problem]:
    folder = Path(cfg.include_path).expanduser() if cfg.include_path is not None else None
    scored = task_scores(cfg.tasks, folder) or {}
    tasks = {name: of for name, of in scored.items() if of.is_zero_shot is not None}
    if not tasks:
        return
    if cfg.num_fewshot and all(of.is_zero_shot for of in tasks.values()):
        who = "each task" if len(tasks) > 1 else next(iter(tasks))
        rule = f"does nothing: {who} says num_fewshot: 0 itself, and lm-eval keeps to that"
        yield Problem(key="eval.num_fewshot", value=str(cfg.num_fewshot), rule=rule, suggestion="leave it out")
    if cfg.gen_kwargs and all(of.writes is False for of in tasks.values()):
        rule = "does nothing: no task of eval.tasks has texts written"
        yield Problem(key="eval.gen_kwargs", value=str(cfg.gen_kwargs), rule=rule, suggestion="leave it out")
