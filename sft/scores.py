"""Owns scores: what they are, what a difference of two says, and how both are printed. Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

TOKEN_METRICS = ("loss", "perplexity", "token_accuracy")
"""What the held-out split is scored for from its tokens alone."""
TEXT_METRICS = ("exact_match", "extracted_match", "rouge_1", "rouge_2", "rouge_l", "bleu", "chrf")
"""What a written answer is compared by (`sft.adapters.evaluation.text_metrics`)."""
JUDGE = "judge"
"""What the judge's verdicts are called among tasks."""
WIN_RATE = "win_rate"
"""Their metric: the part of a held-out set's samples on which the tuned model's answer is the better one."""
CONFIDENCE = 0.95
"""Of an interval, unless `eval.confidence` says otherwise."""
CORPUS_METRICS = frozenset({"bleu", "chrf", "ter", "mcc"})
"""Metrics of lm-eval's of a whole corpus, by name: no means over samples, so they have no paired error. Its others are
known once their samples are. The held-out split's chrF is a mean over sentences."""
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


class Verdict(Enum):
    """What a difference between two models' scores says."""

    better = "better"
    worse = "worse"
    no_difference = "no difference seen"
    none = "no verdict"


@dataclass(frozen=True, kw_only=True)
class Change:
    """The difference between the base model's score and the tuned model's (`sft.stages.compare`).

    Attributes:
        score: Its name.
        before: The base model's.
        difference: After minus before.
        higher_is_better: Direction of the metric.
        verdict: Better or worse only if `corrected` excludes 0.
        reason: Why there is no verdict.
        num_units: Independent samples, or clusters of samples that are not.
        stderr: Paired standard error of the difference; None where there is no verdict, and so are the following.
        p_value: Of this test alone, two-sided.
        interval: Confidence interval of the difference, of this score alone.
        corrected: The same, as wide as the number of scores that are tested demands (Holm).
        detectable: The least true difference that such an interval excludes 0 of in 4 of 5 evaluations.
    """

    score: str
    before: float
    difference: float
    higher_is_better: bool
    verdict: Verdict
    reason: str = ""
    num_units: int = 0
    stderr: float | None = None
    p_value: float | None = None
    interval: tuple[float, float] | None = None
    corrected: tuple[float, float] | None = None
    detectable: float | None = None

    @property
    def least_improvement(self) -> float | None:
        """By how much the score is at least better: the end of `interval` on the side of worse."""
        if self.interval is None:
            return None
        return self.interval[0] if self.higher_is_better else 0.0 - self.interval[1]

    def __str__(self) -> str:
        return f"{format_difference(self.difference)}, {self.told}"

    @property
    def told(self) -> str:
        """The verdict, with what it rests on."""
        if self.corrected is None:
            return f"{self.verdict.value} ({self.reason})"
        low, high = self.corrected
        is_symmetric = math.isclose(high - self.difference, self.difference - low, rel_tol=0.01)  # no perplexity's is
        if self.verdict is not Verdict.no_difference or not is_symmetric:
            return f"{self.verdict.value} ({format_difference(low)} to {format_difference(high)})"
        width = "no sample differs" if low == high == 0 else f"±{(high - low) / 2:.4f}"
        return f"{self.verdict.value} ({width})"


def format_score(value: float | None, stderr: float | None = None) -> str:
    """Return a score as people read it, with its standard error if it has one; empty if there is no score."""
    if value is None:
        return ""
    return f"{value:.4f}" + (f" ± {stderr:.4f}" if stderr is not None else "")


def format_difference(difference: float) -> str:
    """Return a difference of scores as people read it, with its sign."""
    return f"{difference:+.4f}"


TELLS_OVER = "Of true differences as large as the last column says, four in five are seen."
"""What `ScoreRow.detectable` is."""


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A row of a table of scores, as text; all but name, after and samples is empty without the base model's score."""

    name: str
    before: str
    after: str
    difference: str
    samples: str
    detectable: str


def score_row(after: Score, before: Score | None, change: Change | None) -> ScoreRow:
    """Return what every table of scores says of one.

    Args:
        after: The tuned model's.
        before: The base model's.
        change: How they differ.
    """
    samples = f"{after.num_samples:,} sample{'s' * (after.num_samples != 1)}"
    if change and change.num_units not in (0, after.num_samples):
        samples += f" in {change.num_units:,} clusters"
    return ScoreRow(
        name=after.name,
        before=format_score(before.value, before.stderr) if before else "",
        after=format_score(after.value, after.stderr),
        difference=str(change) if change else "",
        samples=samples,
        detectable=f"{change.detectable:.4f}" if change and change.detectable else "",
    )
