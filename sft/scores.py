"""Owns scores: what they are, how two compare, how they are printed, and what a gate asks. Standard library only."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

TOKEN_METRICS = ("loss", "perplexity", "token_accuracy")
"""What the held-out split is scored for from its tokens alone."""
TEXT_METRICS = ("exact_match", "rouge_l", "chrf")
"""What a written answer is compared by (`sft.adapters.evaluation.text_metrics`)."""
JUDGE = "judge"
"""What the judge's verdicts are called among tasks."""
WIN_RATE = "win_rate"
"""Their only metric: the part of the held-out samples on which the tuned model's answer is the better one."""
_LOWER_IS_BETTER = {
    "loss", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter", "mse",
}  # fmt: skip
"""Metrics of ours and of lm-eval's that are better when they are smaller."""


def is_better_when_higher(name: str) -> bool:
    """Return the direction of a metric, or of a score ``task.metric``, by its name."""
    return name.rpartition(".")[2] not in _LOWER_IS_BETTER


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
    """The difference between the base model's score and the tuned model's.

    Attributes:
        difference: After minus before.
        stderr: Standard error of the difference, as if the two were measured on different samples: they are the same
            ones, so the real error is smaller. None if either score has none.
        better: Whether the tuned model's score is the better one.
    """

    difference: float
    stderr: float | None
    better: bool

    @property
    def is_clear(self) -> bool:
        """Return whether the difference is larger than its standard error."""
        return abs(self.difference) > (self.stderr or 0.0)

    @property
    def is_clearly_worse(self) -> bool:
        """Return whether the tuned model's score is worse by more than the standard error."""
        return self.is_clear and not self.better

    def __str__(self) -> str:
        verdict = ("better" if self.better else "worse") if self.is_clear else "within its error"
        return f"{format_difference(self.difference)}, {verdict}"


def change(before: Score, after: Score) -> Change:
    """Return how `after` differs from `before`."""
    difference = after.value - before.value
    errors = (before.stderr, after.stderr)
    stderr = None if None in errors else sum((error or 0.0) ** 2 for error in errors) ** 0.5
    return Change(difference=difference, stderr=stderr, better=(difference > 0) == after.higher_is_better)


def format_score(value: float | None, stderr: float | None = None) -> str:
    """Return a score as people read it, with its standard error if it has one; empty if there is no score."""
    if value is None:
        return ""
    return f"{value:.4f}" + (f" ± {stderr:.4f}" if stderr is not None else "")


def format_difference(difference: float) -> str:
    """Return a difference of scores as people read it, with its sign."""
    return f"{difference:+.4f}"


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A row of a table of scores, as text; `before` and `difference` are empty if the base model was not scored."""

    name: str
    before: str
    after: str
    difference: str
    num_samples: str


def score_row(after: Score, before: Score | None) -> ScoreRow:
    """Return what every table of scores says of one: each value with its error, and the difference.

    Args:
        after: The tuned model's.
        before: The base model's.
    """
    return ScoreRow(
        name=after.name,
        before=format_score(before.value, before.stderr) if before else "",
        after=format_score(after.value, after.stderr),
        difference=str(change(before, after)) if before else "",
        num_samples=f"{after.num_samples:,}",
    )


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
