"""How scores compare, and what a gate asks."""

from __future__ import annotations

from typing import Any

import pytest

from sft.scores import Score, change, parse_gate


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
