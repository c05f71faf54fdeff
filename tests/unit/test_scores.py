"""What a difference of scores says, and how it is shown."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pytest

from sft.scores import Change, Score, Verdict, is_better_when_higher, score_row


def score(value: float, **changes: Any) -> Score:
    facts = {"task": "t", "metric": "acc", "stderr": 0.03, "num_samples": 9, "higher_is_better": True} | changes
    return Score(value=value, **facts)


def change(low: float, high: float, verdict: Verdict, **changes: Any) -> Change:
    facts = {"score": "t.acc", "before": 0.25, "difference": (low + high) / 2, "higher_is_better": True, "num_units": 9}
    ends = {"interval": (low, high), "corrected": (low, high)}
    return Change(verdict=verdict, **(facts | ends | changes))


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (change(0.05, 0.15, Verdict.better), "+0.1000, better (+0.0500 to +0.1500)"),
        (change(-0.15, -0.05, Verdict.worse), "-0.1000, worse (-0.1500 to -0.0500)"),
        (change(-0.02, 0.04, Verdict.no_difference), "+0.0100, no difference seen (±0.0300)"),
        # A perplexity's interval reaches further above than below.
        (
            change(-90.0, 5.0, Verdict.no_difference, difference=-57.0),
            "-57.0000, no difference seen (-90.0000 to +5.0000)",
        ),
        (change(0.0, 0.0, Verdict.no_difference), "+0.0000, no difference seen (no sample differs)"),
        (
            change(0.1, 0.1, Verdict.none, corrected=None, reason="one sample has no error"),
            "+0.1000, no verdict (one sample has no error)",
        ),
    ],
)
def test_a_difference_is_told_with_its_verdict_and_what_that_rests_on(found: Change, text: str) -> None:
    assert str(found) == text


@pytest.mark.parametrize(
    ("found", "least"),
    [
        (change(0.05, 0.15, Verdict.better), 0.05),
        (change(-0.15, -0.05, Verdict.better, higher_is_better=False), 0.05),
        (change(-0.15, 0.05, Verdict.no_difference, higher_is_better=False), -0.05),
        (change(0.0, 0.0, Verdict.none, interval=None), None),
    ],
)
def test_the_least_improvement_is_the_end_on_the_side_of_worse(found: Change, least: float | None) -> None:
    assert found.least_improvement == least


@pytest.mark.parametrize(
    ("before", "found", "texts"),
    [
        (
            score(0.25),
            change(0.2, 0.3, Verdict.better, num_units=1200, detectable=0.04),
            ("0.2500 ± 0.0300", "0.5000 ± 0.0300", "+0.2500, better (+0.2000 to +0.3000)", "1,200 samples", "0.0400"),
        ),
        (
            score(0.25, stderr=None),
            change(0.0, 0.0, Verdict.no_difference, num_units=57, detectable=0.0),
            (
                "0.2500",
                "0.5000 ± 0.0300",
                "+0.0000, no difference seen (no sample differs)",
                "1,200 samples in 57 clusters",
                "",
            ),
        ),
        (None, None, ("", "0.5000 ± 0.0300", "", "1,200 samples", "")),
    ],
)
def test_a_row_of_a_table_has_each_value_with_its_error(
    before: Score | None, found: Change | None, texts: tuple[str, ...]
) -> None:
    assert astuple(score_row(score(0.5, num_samples=1200), before, found)) == ("t.acc", *texts)


@pytest.mark.parametrize(
    ("name", "higher"),
    [("holdout.loss", False), ("perplexity", False), ("wikitext.bits_per_byte", False), ("arc_easy.acc_norm", True)],
)
def test_the_direction_of_a_score_follows_from_its_metric(name: str, higher: bool) -> None:
    assert is_better_when_higher(name) is higher
