"""What a gate asks."""

from __future__ import annotations

import pytest

from sft.gate_rules import GateKind, parse_gates


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
        ("improvement >= -0.01", 0.5, -0.01, -0.01, -0.02),
        ("improvement > .5", None, 0.5, 0.6, 0.5),
    ],
)
def test_a_gate_compares_with_a_number_or_with_the_baseline(
    rule: str, baseline: float | None, limit: float, passes: float, fails: float
) -> None:
    [gate] = parse_gates(rule)
    assert gate.limit(baseline) == pytest.approx(limit)
    assert gate.holds(passes, gate.limit(baseline))
    assert not gate.holds(fails, gate.limit(baseline))


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "0.6",
        "=> 0.6",
        ">= base",
        "< baseline * 2",
        ">= 0.6 or so",
        ">= nan",
        "== 1",
        "improvement < 1",
        "improvement > baseline",
        "> 1 and",
        "> 1, < 2",
    ],
)
def test_what_is_no_comparison_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="is no comparison"):
        parse_gates(rule)


def test_a_gate_on_the_baseline_needs_one() -> None:
    with pytest.raises(ValueError, match="no such score"):
        parse_gates("< baseline")[0].limit(None)


def test_several_gates_of_a_score_are_joined() -> None:
    gates = parse_gates(">= 0.25  and >= baseline - 0.01 and improvement > 0")
    assert [gate.rule for gate in gates] == [">= 0.25", ">= baseline - 0.01", "improvement > 0"]
    assert [gate.kind for gate in gates] == [GateKind.value, GateKind.baseline, GateKind.improvement]
    assert [gate.needs_baseline for gate in gates] == [False, True, True]
