"""Rules of `eval.holdout` and of what tasks are asked with, across their fields. Pure, as `sft.config.checks` is."""

from __future__ import annotations

from collections.abc import Iterator

from sft.config.dataset_checks import check_columns
from sft.config.schema import EvalBackend, EvalConfig, HoldoutMetric, NotCompared, Sampling
from sft.errors import Problem
from sft.scores import TEXT_METRICS


def check_holdout(cfg: EvalConfig) -> Iterator[Problem]:
    """Yield what is wrong between the settings of held-out sets."""
    holdout, metrics = cfg.holdout, cfg.holdout.scored()
    key = "eval.holdout.metrics"
    if not metrics:
        yield Problem(
            key=key, value="[]", rule="must name a metric", suggestion="try null, or eval.holdout.enabled=false"
        )
    for name in sorted({name for name in metrics if metrics.count(name) > 1}):
        yield Problem(key=key, value=name, rule="is named twice")
    written = [name for name in metrics if name in TEXT_METRICS]
    if written and not holdout.generate:
        rule, suggestion = "compares written answers, and eval.holdout.generate=false", "try eval.holdout.generate=true"
        yield Problem(key=key, value=", ".join(written), rule=rule, suggestion=suggestion)
    extracts = HoldoutMetric.extracted_match.value in metrics
    if extracts and holdout.extract is None:
        rule, suggestion = "needs a pattern", r"try 'eval.holdout.extract=#### (-?[\d,]+)'"
        yield Problem(key=key, value=HoldoutMetric.extracted_match.value, rule=rule, suggestion=suggestion)
    if holdout.extract is not None and not extracts:
        rule, suggestion = "does nothing: extracted_match is not scored", "add it to eval.holdout.metrics"
        yield Problem(key="eval.holdout.extract", value=holdout.extract, rule=rule, suggestion=suggestion)
    ignored = [each.value for each in holdout.exact_match_ignores]
    if ignored and HoldoutMetric.exact_match.value not in metrics:
        rule = "does nothing: exact_match is not scored"
        yield Problem(key="eval.holdout.exact_match_ignores", value=", ".join(ignored), rule=rule)
    for name in sorted({each.value for each in NotCompared if ignored.count(each.value) > 1}):
        yield Problem(key="eval.holdout.exact_match_ignores", value=name, rule="is named twice")
    if holdout.sampling is Sampling.as_saved and not cfg.writes_answers():
        rule = "does nothing: no answer is written"
        yield Problem(key="eval.holdout.sampling", value=holdout.sampling.value, rule=rule)
    for name, held_out in cfg.holdouts.items():
        yield from check_columns(held_out, f"eval.holdouts.{name}")
        if name in cfg.tasks:
            rule = "is one of eval.tasks too, and scores go by name"
            yield Problem(key="eval.holdouts", value=name, rule=rule, suggestion="rename it")


def check_prompts(cfg: EvalConfig) -> Iterator[Problem]:
    """Yield settings of tasks' prompts that do nothing."""
    if cfg.system_instruction is not None and not cfg.apply_chat_template:
        rule = "needs a chat template to stand in"
        yield Problem(key="eval.system_instruction", rule=rule, suggestion="try eval.apply_chat_template=true")
    if cfg.fewshot_as_multiturn:
        return
    key, value = "eval.fewshot_as_multiturn", "false"
    if not cfg.apply_chat_template:
        rule, suggestion = (
            "does nothing: without a chat template there are no turns",
            "try eval.apply_chat_template=true",
        )
        yield Problem(key=key, value=value, rule=rule, suggestion=suggestion)
    elif cfg.num_fewshot == 0:
        yield Problem(key=key, value=value, rule="does nothing: eval.num_fewshot=0 asks without examples")


def check_processes(cfg: EvalConfig) -> Iterator[Problem]:
    """Yield what keeps several processes from sharing an evaluation."""
    if cfg.num_processes is None or cfg.num_processes == 1:
        return
    key, value = "eval.num_processes", str(cfg.num_processes)
    if cfg.backend is not EvalBackend.hf:
        rule = f"shares the work of eval.backend=hf; {cfg.backend.value} has its own settings for that"
        yield Problem(key=key, value=value, rule=rule, suggestion="try null")
    if divides := sorted({"parallelize", "device_map", "device"} & cfg.model_args.keys()):
        rule = f"gives each process a whole model, and eval.model_args.{divides[0]} says where one model lies"
        yield Problem(key=key, value=value, rule=rule, suggestion="try 1, or leave that out")
