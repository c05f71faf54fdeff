"""lm-eval's results become scores, and nothing that is missing becomes a number."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sft.adapters.evaluation.results import digest_of_documents, refuse_nan, scores_of
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
