"""Owns what a gate asks of a score: the rules of `eval.gates`, parsed. Standard library only."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+"
_GATE = re.compile(
    rf"(>=|<=|>|<)\s*(?:(?P<base>baseline)(?:\s*([+-])\s*({_NUMBER}))?|(-?(?:{_NUMBER})))"
    rf"|improvement\s*(>=|>)\s*(-?(?:{_NUMBER}))"
)


class GateKind(Enum):
    """What a gate compares."""

    value = "value"
    """The score with a number."""
    baseline = "baseline"
    """The score with the base model's, and something added to it."""
    improvement = "improvement"
    """The least improvement over the base model, the end of its confidence interval, with a number."""


@dataclass(frozen=True)
class Gate:
    """What a score must be.

    Attributes:
        rule: As it was written: ``>= baseline - 0.01``.
        kind: What is compared.
        sign: Its comparison.
        bound: A number, or what is added to the base model's score.
    """

    rule: str
    kind: GateKind
    sign: str
    bound: float

    @property
    def needs_baseline(self) -> bool:
        """Whether the base model must have been scored."""
        return self.kind is not GateKind.value

    def limit(self, baseline: float | None) -> float:
        """Return what the score, or its improvement, is compared with.

        Raises:
            ValueError: It needs the base model's score.
        """
        if self.kind is not GateKind.baseline:
            return self.bound
        if baseline is None:
            raise ValueError("the base model has no such score")
        return baseline + self.bound

    def holds(self, value: float, limit: float) -> bool:
        """Return whether a value passes."""
        return _OPERATORS[self.sign](value, limit)


def parse_gates(rules: str) -> list[Gate]:
    """Return the gates that a recipe writes for a score: one, or several joined by ``and``.

    Raises:
        ValueError: One of them is none.
    """
    return [_parsed(rule) for rule in re.split(r"\s+and\s+", rules.strip())]


def _parsed(rule: str) -> Gate:
    match = _GATE.fullmatch(rule)
    if match is None:
        forms = "'>= 0.6', '< baseline', '>= baseline - 0.01' or 'improvement >= 0.01'"
        raise ValueError(f"is no comparison: {forms}, or several joined by 'and'")
    sign, base, plus, offset, number, improvement_sign, improvement = match.groups()
    if improvement:
        return Gate(rule, GateKind.improvement, improvement_sign, _finite(improvement))
    bound = _finite(number or f"{plus or '+'}{offset or 0}")
    return Gate(rule, GateKind.baseline if base else GateKind.value, sign, bound)


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError("must compare with a finite number")
    return value
