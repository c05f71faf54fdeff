"""lm-eval's results become scores, and nothing that is missing becomes a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sft.adapters.evaluation.results import digest_of_documents, refuse_nan, scores_of, values_of
from sft.errors import StageError


def results(**tasks: dict[str, Any]) -> dict[str, Any]:
    return {
        "results": tasks,
        "n-samples": {name: {"original": 90, "effective": 9} for name in tasks if not name.startswith("group")},
        "higher_is_better": {name: {"acc": True, "perplexity": False} for name in tasks},
        "group_subtasks": {"group": ["first", "second"]},
    }


def test_a_metric_becomes_a_score_with_its_error_count_and_direction() -> None:
    [accuracy, perplexity] = scores_of(
        results(
            first={
                "alias": "first",
                "acc,none": 0.5,
                "acc_stderr,none": 0.1,
                "perplexity,none": 3,
                "perplexity_stderr,none": "N/A",
            }
        )
    )
    assert accuracy == {
        "task": "first",
        "metric": "acc",
        "value": 0.5,
        "stderr": 0.1,
        "num_samples": 9,
        "higher_is_better": True,
    }
    assert (perplexity["value"], perplexity["stderr"], perplexity["higher_is_better"]) == (3.0, None, False)


def test_an_error_that_is_not_a_number_is_none() -> None:
    [score] = scores_of(results(first={"acc,none": 0.5, "acc_stderr,none": math.nan}))
    assert score["stderr"] is None


def test_a_second_filter_keeps_lm_evals_full_name() -> None:
    found = scores_of(results(first={"exact_match,strict-match": 0.2, "exact_match,flexible-extract": 0.4}))
    assert [(s["metric"], s["value"]) for s in found] == [("exact_match", 0.2), ("exact_match,flexible-extract", 0.4)]


def test_a_group_counts_the_samples_of_its_tasks() -> None:
    [group, *_] = scores_of(results(group={"acc,none": 0.3}, first={"acc,none": 0.1}, second={"acc,none": 0.5}))
    assert (group["task"], group["num_samples"]) == ("group", 18)


def test_a_group_without_a_number_of_its_own_is_left_to_its_tasks() -> None:
    found = scores_of(results(group={"alias": "group"}, first={"acc,none": 0.1}))
    assert [s["task"] for s in found] == ["first"]


@pytest.mark.parametrize("value", [math.nan, math.inf, "N/A", None])
def test_a_metric_that_is_not_a_number_fails(value: object) -> None:
    with pytest.raises(StageError, match=r"first gave .* for acc,none"):
        list(scores_of(results(first={"acc,none": value})))


def test_a_task_without_a_metric_fails() -> None:
    with pytest.raises(StageError, match="first gave no metric"):
        list(scores_of(results(first={"alias": "first"})))


def rows(metric: str, values: Sequence[Any], **changes: Any) -> list[dict[str, Any]]:
    return [{"doc_id": number, "filter": "none", metric: value} | changes for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("metric", "values", "score", "sums", "counts"),
    [
        ("acc", [np.float64(1.0), 0, True, np.bool_(False)], 0.5, [1.0, 0.0, 1.0, 0.0], []),
        ("perplexity", [-1.0, -3.0], math.exp(2.0), [1.0, 3.0], []),
        ("word_perplexity", [(-4.0, 2), (-1.0, 3)], math.exp(1.0), [4.0, 1.0], [2.0, 3.0]),
        ("bits_per_byte", [(-math.log(2), 1), (-math.log(8), 3)], 1.0, [1.0, 3.0], [1.0, 3.0]),
    ],
)
def test_the_values_of_a_score_are_in_the_form_that_gives_the_score(
    metric: str, values: Sequence[Any], score: float, sums: list[float], counts: list[float]
) -> None:
    [found] = values_of(results(first={f"{metric},none": score}), {"first": rows(metric, values)})
    assert (found.score, found.units) == (f"first.{metric}", list(range(len(values))))
    assert (found.sums, found.counts) == (pytest.approx(sums), pytest.approx(counts))
    assert found.value == pytest.approx(score)


@pytest.mark.parametrize("values", [[0.0, 1.0], [(["a"], "b")] * 2, [-1000.0, -2000.0], [(-1.0, 0)], []])
def test_a_score_that_is_no_mean_of_its_samples_has_no_values(values: Sequence[Any]) -> None:
    assert list(values_of(results(first={"bleu,none": 33.0}), {"first": rows("bleu", values)})) == []


def test_values_are_those_of_the_scores_own_filter() -> None:
    samples = rows("exact_match", [0.0, 1.0], filter="strict-match") + rows(
        "exact_match", [1.0, 1.0], filter="flexible"
    )
    found = values_of(results(first={"exact_match,strict-match": 0.5, "exact_match,flexible": 1.0}), {"first": samples})
    assert {values.score: values.sums for values in found} == {
        "first.exact_match": [0.0, 1.0],
        "first.exact_match,flexible": [1.0, 1.0],
    }


@pytest.mark.parametrize(("mean", "sums", "counts"), [(0.5, [1.0, 3.0], [2.0, 6.0]), (0.5 - 1e-3, [], [])])
def test_the_units_of_a_group_are_its_tasks(mean: float, sums: list[float], counts: list[float]) -> None:
    found = results(group={"acc,none": mean}, first={"acc,none": 0.5}, second={"acc,none": 0.5})
    found["n-samples"] = {"first": {"effective": 2}, "second": {"effective": 6}}
    made = [values for values in values_of(found, {}) if values.score == "group.acc"]
    assert [(values.sums, values.counts) for values in made] == ([(sums, counts)] if sums else [])


def test_a_group_that_weighs_its_tasks_alike_counts_each_once() -> None:
    found = results(group={"acc,none": 0.75}, first={"acc,none": 0.5}, second={"acc,none": 1.0})
    found["n-samples"] = {"first": {"effective": 2}, "second": {"effective": 6}}
    [group] = [values for values in values_of(found, {}) if values.score == "group.acc"]
    assert (group.units, group.sums, group.counts) == (["first", "second"], [0.5, 1.0], [])


def sample(**changes: Any) -> dict[str, Any]:
    row = {"doc_id": 7, "arguments": [("2+2=", " 4"), ("2+2=", " 5")], "resps": [[(-1.5, True)], [(-2.0, False)]]}
    return row | changes


def test_an_answer_that_is_not_a_number_fails_and_shows_the_sample() -> None:
    refuse_nan({"sums": [sample()], "texts": [sample(resps=[["nan"]])]})
    with pytest.raises(StageError, match=r"sums, sample 7: .*is not a number; the prompt: 2\+2="):
        refuse_nan({"sums": [sample(), sample(resps=[[(-1.5, True)], [(math.nan, False)]])]})


def test_the_digest_of_a_tasks_documents_knows_no_order_of_requests() -> None:
    rows = [{"doc_id": 1, "doc_hash": "b"}, {"doc_id": 0, "doc_hash": "a"}, {"doc_id": 1, "doc_hash": "b"}]
    assert digest_of_documents(rows) == digest_of_documents(rows[:2])
    assert digest_of_documents(rows) != digest_of_documents([{**row, "doc_hash": "c"} for row in rows])
