"""Numbers of an evaluation: what one is, how two compare, and what a gate asks of one. Standard library only."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of an evaluation.

    Attributes:
        task: lm-eval task name, or ``holdout``.
        metric: Upstream's metric name without its filter (``acc``, ``exact_match``, ``loss``).
        value: The number.
        stderr: Standard error of the mean; None where the metric has none.
        num_samples: How many samples it is the mean of.
        higher_is_better: Direction of the metric.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    num_samples: int
    higher_is_better: bool

    @property
    def name(self) -> str:
        return f"{self.task}.{self.metric}"


@dataclass(frozen=True, kw_only=True)
class Change:
    """From the base model's score to the tuned one's.

    Attributes:
        difference: After minus before.
        stderr: Of the difference, taken as if both were measured on different samples: they are the same ones, so the
            real one is smaller. None where either has none.
        better: Whether the difference goes in the metric's good direction.
    """

    difference: float
    stderr: float | None
    better: bool

    @property
    def is_clear(self) -> bool:
        """Whether the difference is larger than its standard error."""
        return abs(self.difference) > (self.stderr or 0.0)

    def __str__(self) -> str:
        if not self.is_clear:
            return f"{self.difference:+.4f}, within its error"
        return f"{self.difference:+.4f}, {'better' if self.better else 'worse'}"


def change(before: Score, after: Score) -> Change:
    """Return how `after` differs from `before`."""
    difference = after.value - before.value
    errors = (before.stderr, after.stderr)
    stderr = None if None in errors else sum((error or 0.0) ** 2 for error in errors) ** 0.5
    return Change(difference=difference, stderr=stderr, better=(difference > 0) == after.higher_is_better)


_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+"
_GATE = re.compile(rf"(>=|<=|>|<)\s*(?:(?P<base>baseline)(?:\s*([+-])\s*({_NUMBER}))?|(-?(?:{_NUMBER})))")


@dataclass(frozen=True)
class Gate:
    """What a score must be.

    Attributes:
        rule: As it was written: ``>= baseline - 0.01``.
        sign: Its comparison.
        bound: A number, or what is added to the base model's score.
        from_baseline: Which of both.
    """

    rule: str
    sign: str
    bound: float
    from_baseline: bool

    def limit(self, baseline: float | None) -> float:
        """Return what the score is compared with.

        Raises:
            ValueError: It needs the base model's score.
        """
        if not self.from_baseline:
            return self.bound
        if baseline is None:
            raise ValueError("the base model has no such score")
        return baseline + self.bound

    def holds(self, value: float, limit: float) -> bool:
        """Return whether a score passes."""
        return _OPERATORS[self.sign](value, limit)


def parse_gate(rule: str) -> Gate:
    """Return a gate as a recipe writes it, parsed.

    Raises:
        ValueError: It is none.
    """
    match = _GATE.fullmatch(rule.strip())
    if match is None:
        raise ValueError("is no comparison: '>= 0.6', '< baseline' or '>= baseline - 0.01'")
    sign, base, plus, offset, number = match.groups()
    bound = float(number) if number else float(f"{plus or '+'}{offset or 0}")
    return Gate(rule.strip(), sign, bound, base is not None)
