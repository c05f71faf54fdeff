"""Gates that can't be judged are refused as early as that is known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import DatasetArtifact, EvalReport
from sft.config.schema import EvalConfig, HeldOutSetConfig, SelectConfig
from sft.errors import ConfigError, StageError
from sft.sample_values import SampleValues, append
from sft.scores import Score
from sft.stages.evaluate import HeldOutSet
from sft.stages.gate_checks import (
    check_choice,
    check_chosen_score,
    check_gates,
    check_samples,
    check_task_scores,
)


@pytest.mark.long
@pytest.mark.parametrize(
    ("tasks", "settings", "problem"),
    [
        (["arc_easy"], {"gates": {"arc_easy.acc_norm": "improvement > 0"}, "no_regression": ["arc_easy"]}, None),
        (["gsm8k"], {"gates": {"gsm8k.exact_match,flexible-extract": "> 0.5"}}, None),
        (["ai2_arc"], {"gates": {"arc_challenge.acc": "> 0.5"}}, None),
        (["mmlu"], {"gates": {"mmlu.acc": "improvement > 0", "mmlu_anatomy.acc": "> 0.5"}}, None),
        (["squadv2"], {"gates": {"squadv2.whatever_its_code_says": "> 0.5"}}, None),
        (["cola"], {"gates": {"cola.mcc": "> 0.1"}}, None),
        (
            ["arc_easy"],
            {"gates": {"arc_easy.accuracy": "> 0.5"}},
            "eval.gates.arc_easy.accuracy=> 0.5: arc_easy has no such score; it is scored for acc, acc_norm",
        ),
        (
            ["gsm8k"],
            {"no_regression": ["gsm8k.exact_match,strict-match"]},
            "it is scored for exact_match, exact_match,flexible-extract",
        ),
        (
            ["arc_easy"],
            {"no_regression": ["arc_challenge"]},
            "eval.no_regression=arc_challenge: eval.tasks does not score arc_challenge; add it there, or name arc_easy",
        ),
        (["ai2_arc"], {"gates": {"ai2_arc.acc": "> 0.5"}}, "eval.tasks does not score ai2_arc"),
        (["openllm"], {"gates": {"openllm.acc": "> 0.5"}}, "scored for nothing: its tasks have scores of their own"),
        (["cola"], {"gates": {"cola.mcc": "improvement > 0"}}, "needs an error, and mcc of cola has none"),
        (["cola"], {"no_regression": ["cola"]}, "needs an error, and mcc of cola has none"),
    ],
)
def test_a_gate_on_a_score_that_tasks_do_not_give_is_refused_by_their_files(
    tasks: list[str], settings: dict[str, Any], problem: str | None
) -> None:
    cfg = EvalConfig(tasks=tasks, holdouts={"support": HeldOutSetConfig(uri="a")}, **settings)
    cfg.gates |= {"judge.win_rate": "> 0.5", "holdout.loss": "< baseline", "support.loss": "< 1"}
    if problem is None:
        check_task_scores(cfg)
        return
    with pytest.raises(ConfigError) as caught:
        check_task_scores(cfg)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "samples", "why"),
    [
        ({"gates": {"holdout.loss": "improvement > 0"}}, 2, None),
        ({"gates": {"holdout.loss": "< baseline"}}, 1, None),
        ({"gates": {"other.loss": "improvement > 0"}}, 0, None),
        ({"gates": {"holdout.loss": "improvement > 0"}}, 1, "eval.gates.holdout.loss can't be judged: holdout has one"),
        ({"gates": {"holdout.loss": "< 2"}}, 0, "eval.gates.holdout.loss can't be judged: holdout has no sample"),
        ({"no_regression": ["holdout.loss"]}, 1, "eval.no_regression can't be judged: holdout has one sample"),
    ],
)
def test_a_gate_on_a_set_with_too_few_samples_is_refused_before_any_model_is_scored(
    settings: dict[str, Any], samples: int, why: str | None, tmp_path: Path
) -> None:
    counts = dict.fromkeys(("num_rows", "num_train", "num_rejected", "num_duplicates", "num_unused"), 9)
    data = DatasetArtifact(root=tmp_path, source="s", source_version="", num_eval=samples, **counts)
    held_out = [HeldOutSet(name="holdout", dataset=data)]
    if why is None:
        check_samples(EvalConfig(**settings), held_out)
        return
    with pytest.raises(StageError, match=re.escape(why)):
        check_samples(EvalConfig(**settings), held_out)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"gates": {"arc_easy.acc": "> 0.5 and improvement > 0", "holdout.loss": "< baseline"}}, None),
        ({"no_regression": ["arc_easy", "holdout"], "gates": {"judge.win_rate": "> 0.5"}}, None),
        ({"gates": {"arc_easy.acc_norm": "> 0.5"}}, "eval.gates: there is no score arc_easy.acc_norm"),
        (
            {"gates": {"holdout.loss": "improvement > 0"}},
            "an improvement of holdout.loss can't be judged",
        ),
        ({"no_regression": ["arc_hard"]}, "eval.no_regression: there is no score of arc_hard"),
        ({"no_regression": ["holdout.loss"]}, "eval.no_regression: holdout.loss can't be judged"),
    ],
)
def test_what_the_base_models_scores_show_can_not_be_judged_is_refused_before_the_training(
    settings: dict[str, Any], why: str | None, tmp_path: Path
) -> None:
    facts: dict[str, Any] = {"value": 0.5, "stderr": 0.01, "num_samples": 100}
    scores = (
        Score(task="arc_easy", metric="acc", higher_is_better=True, **facts),
        Score(task="holdout", metric="loss", higher_is_better=False, **facts),
        Score(task="holdout", metric="rouge_l", higher_is_better=True, **facts),
    )
    base = EvalReport(root=tmp_path, model_digest="m", scores=scores)
    values = [
        SampleValues(score="arc_easy.acc", units=[0, 1], sums=[0.0, 1.0]),
        SampleValues(score="holdout.loss", units=[0, 1], sums=[2.0, 2.0], clusters=[0, 0]),
        SampleValues(score="holdout.rouge_l", units=[0, 1], sums=[2.0, 2.0]),
    ]
    append(tmp_path, values)
    if why is None:
        check_gates(EvalConfig(**settings), base)
        return
    with pytest.raises(StageError, match=re.escape(why)):
        check_gates(EvalConfig(**settings), base)


@pytest.mark.parametrize(
    ("score", "problem"),
    [
        ("arc_easy.acc", None),
        ("support.whatever", None),  # the settings alone say that
        ("arc_easy.accuracy", "arc_easy has no such score; it is scored for acc, acc_norm"),
        ("gsm8k.exact_match", "eval.epoch_tasks does not score gsm8k; add it there, or name arc_easy"),
    ],
)
def test_a_choice_by_a_score_that_the_tasks_of_epochs_do_not_give_is_refused(score: str, problem: str | None) -> None:
    sets = {"support": HeldOutSetConfig(uri="a")}
    cfg = EvalConfig(tasks=["arc_easy", "gsm8k"], epoch_tasks=["arc_easy"], holdouts=sets)
    if problem is None:
        check_chosen_score(cfg, SelectConfig(metric=score))
        return
    with pytest.raises(ConfigError) as caught:
        check_chosen_score(cfg, SelectConfig(metric=score))
    assert f"training.select.metric={score}: {problem}" in str(caught.value)


def test_a_choice_by_a_score_that_the_base_model_has_not_is_refused_before_the_training(tmp_path: Path) -> None:
    score = Score(task="t", metric="acc", value=0.5, stderr=0.1, num_samples=9, higher_is_better=True)
    base = EvalReport(root=tmp_path, model_digest="m", scores=(score,))
    check_choice(SelectConfig(metric="t.acc"), base)
    check_choice(SelectConfig(metric="validation_loss"), base)
    with pytest.raises(StageError, match=r"training.select.metric: there is no score t.accuracy"):
        check_choice(SelectConfig(metric="t.accuracy"), base)
