"""How scores compare, and what a gate asks."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pytest

from sft.scores import Score, change, is_better_when_higher, parse_gate, score_row


def score(value: float, **changes: Any) -> Score:
    facts = {"task": "t", "metric": "acc", "stderr": 0.03, "num_samples": 9, "higher_is_better": True} | changes
    return Score(value=value, **facts)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (score(0.5), score(0.6), "+0.1000, better"),
        (score(0.5), score(0.4), "-0.1000, worse"),
        (score(0.5), score(0.54), "+0.0400, within its error"),  # its error is 0.0424
        (score(2.0, higher_is_better=False), score(1.0, higher_is_better=False), "-1.0000, better"),
        (score(0.5, stderr=None), score(0.51), "+0.0100, better"),
        (score(0.5, stderr=None), score(0.5), "+0.0000, within its error"),
    ],
)
def test_a_difference_is_held_against_its_standard_error(before: Score, after: Score, text: str) -> None:
    assert str(change(before, after)) == text


@pytest.mark.parametrize(
    ("before", "texts"),
    [
        (score(0.25), ("t.acc", "0.2500 ± 0.0300", "0.5000 ± 0.0300", "+0.2500, better", "1,200")),
        (score(0.25, stderr=None), ("t.acc", "0.2500", "0.5000 ± 0.0300", "+0.2500, better", "1,200")),
        (None, ("t.acc", "", "0.5000 ± 0.0300", "", "1,200")),
    ],
)
def test_a_row_of_a_table_has_each_value_with_its_error(before: Score | None, texts: tuple[str, ...]) -> None:
    assert astuple(score_row(score(0.5, num_samples=1200), before)) == texts


@pytest.mark.parametrize(
    ("name", "higher"),
    [("holdout.loss", False), ("perplexity", False), ("wikitext.bits_per_byte", False), ("arc_easy.acc_norm", True)],
)
def test_the_direction_of_a_score_follows_from_its_metric(name: str, higher: bool) -> None:
    assert is_better_when_higher(name) is higher


@pytest.mark.parametrize(
    ("rule", "baseline", "limit", "passes", "fails"),
    [
        (">= 0.60", None, 0.6, 0.6, 0.59),
        (">.5", None, 0.5, 0.51, 0.5),
        ("<= 1e-3", None, 0.001, 0.001, 0.002),
        ("< baseline", 2.0, 2.0, 1.9, 2.0),
        (">= baseline - 0.01", 0.5, 0.49, 0.49, 0.48),
        (">= baseline+ 0.25", 0.5, 0.75, 0.75, 0.7),
        ("> -1", None, -1.0, 0.0, -1.0),
    ],
)
def test_a_gate_compares_with_a_number_or_with_the_baseline(
    rule: str, baseline: float | None, limit: float, passes: float, fails: float
) -> None:
    gate = parse_gate(rule)
    assert gate.limit(baseline) == pytest.approx(limit)
    assert gate.holds(passes, gate.limit(baseline))
    assert not gate.holds(fails, gate.limit(baseline))


@pytest.mark.parametrize("rule", ["", "0.6", "=> 0.6", ">= base", "< baseline * 2", ">= 0.6 or so", ">= nan", "== 1"])
def test_what_is_no_comparison_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="is no comparison"):
        parse_gate(rule)


def test_a_gate_on_the_baseline_needs_one() -> None:
    with pytest.raises(ValueError, match="no such score"):
        parse_gate("< baseline").limit(None)
