"""Settings of held-out sets and of tasks' prompts that contradict each other, or would do nothing, are refused."""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.holdout_checks import check_holdout, check_processes, check_prompts
from sft.config.schema import (
    EvalBackend,
    EvalConfig,
    HeldOutSetConfig,
    HoldoutConfig,
    HoldoutMetric,
    JudgeConfig,
    NotCompared,
    Sampling,
)
from sft.config.schema.bounds import out_of_bounds

M = HoldoutMetric


def told(**changes: Any) -> list[str]:
    return [str(problem) for problem in check_holdout(EvalConfig(holdout=HoldoutConfig(**changes)))]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"generate": False},
        {"metrics": [M.loss], "generate": False},
        {"metrics": [M.bleu, M.chrf]},
        {"extract": "(a)"},
        {"metrics": [M.extracted_match], "extract": "(a)"},
        {"exact_match_ignores": [NotCompared.case]},
        {"sampling": Sampling.as_saved},
    ],
)
def test_what_fits_together_is_taken(changes: dict[str, Any]) -> None:
    assert told(**changes) == []


@pytest.mark.parametrize(
    ("changes", "key", "rule"),
    [
        ({"metrics": []}, "metrics", "must name a metric"),
        ({"metrics": [M.loss, M.loss]}, "metrics", "is named twice"),
        ({"metrics": [M.bleu], "generate": False}, "metrics", "compares written answers"),
        ({"metrics": [M.extracted_match]}, "metrics", "needs a pattern"),
        ({"metrics": [M.loss], "extract": "(a)"}, "extract", "does nothing"),
        ({"generate": False, "extract": "(a)"}, "extract", "does nothing"),
        ({"metrics": [M.loss], "exact_match_ignores": [NotCompared.case]}, "exact_match_ignores", "does nothing"),
        ({"exact_match_ignores": [NotCompared.case] * 2}, "exact_match_ignores", "is named twice"),
        ({"metrics": [M.loss], "sampling": Sampling.as_saved}, "sampling", "no answer is written"),
    ],
)
def test_what_does_not_is_refused_under_its_key(changes: dict[str, Any], key: str, rule: str) -> None:
    [problem] = told(**changes)
    assert problem.startswith(f"eval.holdout.{key}")
    assert rule in problem


@pytest.mark.parametrize("pattern", ["####", "(a)(b)", "(a", "(?:a)", "[z-a](b)"])
def test_a_pattern_that_says_no_answer_is_refused(pattern: str) -> None:
    [problem] = out_of_bounds(HoldoutConfig(extract=pattern))
    assert problem.key == "extract"


def test_metrics_are_by_default_what_answers_allow() -> None:
    tokens = ("loss", "perplexity", "token_accuracy")
    assert HoldoutConfig(generate=False).scored() == tokens
    assert HoldoutConfig().scored() == (*tokens, "exact_match", "rouge_l", "chrf")
    assert HoldoutConfig(extract="(a)").scored() == (*tokens, "exact_match", "extracted_match", "rouge_l", "chrf")


def test_answers_are_written_only_for_who_compares_them() -> None:
    judge = JudgeConfig(address="http://localhost/v1")
    only_loss = HoldoutConfig(metrics=[M.loss])
    assert EvalConfig().writes_answers()
    assert not EvalConfig(holdout=only_loss).writes_answers()
    assert EvalConfig(holdout=only_loss, judge=judge).writes_answers()
    assert not EvalConfig(holdout=HoldoutConfig(generate=False)).writes_answers()


def test_a_set_is_not_called_like_a_task() -> None:
    cfg = EvalConfig(tasks=["support"], holdouts={"support": HeldOutSetConfig(uri="a")})
    [problem] = check_holdout(cfg)
    assert str(problem).startswith("eval.holdouts=support: is one of eval.tasks too")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"system_instruction": "Be brief."}, "eval.system_instruction"),
        ({"fewshot_as_multiturn": False}, "eval.fewshot_as_multiturn"),
        ({"fewshot_as_multiturn": False, "apply_chat_template": True, "num_fewshot": 0}, "eval.fewshot_as_multiturn"),
        ({"fewshot_as_multiturn": False, "apply_chat_template": True, "num_fewshot": 2}, None),
        ({"fewshot_as_multiturn": False, "apply_chat_template": True}, None),
    ],
)
def test_settings_of_prompts_that_do_nothing_are_refused(changes: dict[str, Any], key: str | None) -> None:
    assert [problem.key for problem in check_prompts(EvalConfig(**changes))] == ([key] if key else [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"num_processes": 1, "model_args": {"parallelize": True}}, None),
        ({"num_processes": 2}, None),
        ({"num_processes": 2, "backend": EvalBackend.vllm}, "shares the work of eval.backend=hf"),
        ({"num_processes": 2, "model_args": {"parallelize": True}}, "eval.model_args.parallelize says where one"),
    ],
)
def test_processes_share_only_what_each_can_do_with_a_whole_model(changes: dict[str, Any], said: str | None) -> None:
    problems = [str(problem) for problem in check_processes(EvalConfig(**changes))]
    assert len(problems) == (said is not None)
    assert said is None or said in problems[0]
