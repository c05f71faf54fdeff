"""Owns the statistics of two models that answered the same samples: difference, error, interval, test. Pure.

What makes a question hard makes it hard for both, so it cancels out of the differences, whose error is much smaller
than that of two scores measured apart (Miller, *Adding Error Bars to Evals*, 2024, arXiv:2411.00640).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sft.sample_values import SampleValues

POWER = 0.8
"""How often a difference of the size `PairedDifference.detectable` would be seen."""
_SAME_SIZE = 1e-9
_UNITS_PER_SQUARED_SKEWNESS = 25


class NotPaired(ValueError):
    """Two scores of which nothing can be said: the message says why."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A difference of two scores over the same samples, and how sure it is.

    Attributes:
        difference: After minus before; of a perplexity, of its logarithm (`on_scale`).
        stderr: Its standard error.
        num_units: Independent units: samples, or clusters of them.
        freedom: Degrees of freedom of the standard error (`_freedom`).
        p_value: Two-sided, of no difference.
        is_skewed: Whether a few units decide it: its interval then leaves half as much to chance (`_student`).
        scale: Of a perplexity, the value before; None for any other score.
    """

    difference: float
    stderr: float
    num_units: int
    freedom: float
    p_value: float
    is_skewed: bool = False
    scale: float | None = None

    def margin(self, confidence: float) -> float:
        """Return half the width of the confidence interval: Student's t times the standard error.

        Where another test is less sure than t (`_p_value`), the interval reaches 0, so that the two never contradict.
        """
        margin = student_quantile(self._above(confidence), self.freedom) * self.stderr
        return margin if self.p_value < 1 - confidence else max(margin, abs(self.difference))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the confidence interval of the difference, as scores differ.

        Raises:
            NotPaired: As of `on_scale`.
        """
        margin = self.margin(confidence)
        return self.on_scale(self.difference - margin), self.on_scale(self.difference + margin)

    def detectable(self, confidence: float) -> float:
        """Return the size of the least true difference that is seen with a probability of `POWER`, as scores differ.

        Of a perplexity, in the direction in which it differs: a rise is larger than the fall of the same ratio.

        The error is taken for known: (t(1 - alpha / 2) + t(power)) x standard error (Miller, 2024, on power).
        """
        quantiles = student_quantile(self._above(confidence), self.freedom) + student_quantile(1 - POWER, self.freedom)
        return abs(self.on_scale(math.copysign(quantiles * self.stderr, self.difference)))

    def _above(self, confidence: float) -> float:
        return (1 - confidence) / (4 if self.is_skewed else 2)

    def on_scale(self, difference: float) -> float:
        """Return by how much a score differs whose ratio differs so; of a perplexity, given the one before.

        Raises:
            NotPaired: It is a perplexity, and differs by more than a number can be.
        """
        if self.scale is None:
            return difference
        try:
            scaled = self.scale * math.expm1(difference)
        except OverflowError:
            scaled = math.inf
        if math.isinf(scaled):
            raise NotPaired("its interval reaches beyond the largest number")
        return scaled


def compare(before: SampleValues, after: SampleValues) -> PairedDifference:
    """Return how two models' values of one score differ.

    The standard error is the jackknife's: how far the difference moves when a unit is left out (Efron and Stein,
    *Annals of Statistics* 9, 1981). Of means it is that of the paired t-test. A cluster is a unit. Where all units that
    differ do so by the same, as of a 0/1 metric, the error is at least as if one more had not differed: that six
    answers of six turned right doesn't say that all would.

    Raises:
        NotPaired: The samples are not the same ones, or fewer than two are independent.
    """
    if before.units != after.units:
        raise NotPaired("the two models were not scored on the same samples")
    clusters = after.clusters or before.clusters
    sizes = _clustered(after.counts or [1.0] * len(after.units), clusters)
    moves = [later - earlier for earlier, later in zip(_moves(before, clusters), _moves(after, clusters), strict=True)]
    if (num := len(moves)) < 2:
        raise NotPaired("one sample has no error" if num else "there is no sample")
    difference, freedom = after.ratio - before.ratio, _freedom(sizes)
    stderr = math.sqrt(math.fsum(move * move for move in moves) * (num - 1) / num)
    shares = [abs(move * (num - 1) + difference) / num for move in moves]
    largest = max(shares)
    differing = [share for share in shares if share > _SAME_SIZE * largest]
    is_skewed = False
    if differing and max(differing) - min(differing) <= _SAME_SIZE * largest:
        stderr = max(stderr, largest * num / (num + 1))
        least = _sign_test(difference, largest, len(differing))
    else:
        least = 2.0 ** (1 - len(differing)) if differing else 1.0
        is_skewed = num <= _UNITS_PER_SQUARED_SKEWNESS * _skewness(moves) ** 2
    return PairedDifference(
        difference=difference,
        stderr=stderr,
        num_units=num,
        freedom=freedom,
        p_value=max(least, _student(difference, stderr, freedom, moves if is_skewed else ())),
        is_skewed=is_skewed,
        scale=before.value if before.is_exponential else None,
    )


def _moves(values: SampleValues, clusters: Sequence[int | str]) -> list[float]:
    """Return how far the score falls when each unit is left out: R - (Y - y) / (X - x) = (y - R x) / (X - x)."""
    counts = values.counts or [1.0] * len(values.sums)
    sums, sizes = _clustered(values.sums, clusters), _clustered(counts, clusters)
    total, ratio = math.fsum(sizes), values.ratio
    if len(sizes) < 2:
        return [0.0] * len(sizes)
    return [(value - ratio * size) / (total - size) for value, size in zip(sums, sizes, strict=True)]


def _clustered(values: Sequence[float], clusters: Sequence[int | str]) -> Sequence[float]:
    """Return the sum of each cluster; the values themselves where there are none."""
    if not clusters:
        return values
    members: dict[int | str, list[float]] = defaultdict(list)
    for cluster, value in zip(clusters, values, strict=True):
        members[cluster].append(value)
    return [math.fsum(cluster) for cluster in members.values()]


def _freedom(sizes: Sequence[float]) -> float:
    """Return the degrees of freedom of a ratio's error: those of a mean, n - 1, if all units are of one size.

    Long units weigh more than short ones, so fewer of them say how much units differ: (sum of w^2)^2 / (sum of w^4) of
    them (Satterthwaite, *Biometrics Bulletin* 2, 1946, of the variance that is a sum of w^2 times squared residuals).
    """
    squares = [size * size for size in sizes]
    return max(1.0, math.fsum(squares) ** 2 / math.fsum(square * square for square in squares) - 1)


def _student(difference: float, stderr: float, freedom: float, skewed: Sequence[float]) -> float:
    """Return Student's two-sided p-value of no difference.

    Of skewed units, t corrected for their skewness (Hall, *Journal of the Royal Statistical Society B* 54, 1992) must
    agree with it. Then the p-value is twice the larger one: with few such units neither keeps its level, and all of
    what they err lies on one side (`benchmarks/verdicts.py` counts how often this one errs).

    Args:
        difference: Of the scores.
        stderr: Its standard error.
        freedom: Of that.
        skewed: By how much each unit moves the difference, if these are skewed; else nothing.
    """
    if not stderr:
        return 0.0 if difference else 1.0
    t = difference / stderr
    student = 2 * _student_tail(abs(t), freedom)
    if not skewed:
        return student
    by = _skewness(skewed) / math.sqrt(len(skewed))
    corrected = t + by * t**2 / 3 + by**2 * t**3 / 27 + by / 6
    return min(1.0, 2 * max(student, 2 * _student_tail(abs(corrected), freedom))) if corrected * t > 0 else 1.0


def _skewness(moves: Sequence[float]) -> float:
    """Return the skewness of units whose mean is 0, as it is estimated of a sample (Fisher's G1).

    Of fewer than three it is 0. Student's t keeps its level if there are more than 25 times its square (Cochran,
    *Sampling Techniques*, 1977, section 2.15).
    """
    num, spread = len(moves), math.fsum(move * move for move in moves) / len(moves)
    if num < 3 or not spread:
        return 0.0
    ratio = math.fsum(move**3 for move in moves) / num / math.pow(spread, 1.5)
    return ratio * math.sqrt(num * (num - 1)) / (num - 2)


def _sign_test(difference: float, size: float, num: int) -> float:
    """Return the p-value of shares of one size, as of a 0/1 metric: McNemar's exact test (*Psychometrika* 12, 1947).

    If the two models were interchangeable, each share might as well have the other sign. So of n shares of any size no
    p-value is below 2^(1-n), as none of the 2^n ways to draw the signs is more likely than another.

    Args:
        difference: Of the scores.
        size: What each unit that differs adds to it, without its sign.
        num: Of these units.
    """
    return min(1.0, 2 * _binomial_tail(round((num - abs(difference) / size) / 2), num))


def holm(p_values: Sequence[float], confidence: float) -> list[float]:
    """Return the confidence at which each of several tests is held so that all err together as one alone (Holm, 1979).

    The k-th least p-value of m is held against (1 - confidence) / (m - k + 1), until one is above; the rest is held
    against what that one was. An interval of this confidence excludes 0 exactly if Holm's method rejects.
    """
    alpha, levels = 1 - confidence, [0.0] * len(p_values)
    left = len(p_values)
    is_seen = True
    for place in sorted(range(len(p_values)), key=lambda place: p_values[place]):
        levels[place] = 1 - alpha / left
        is_seen = is_seen and p_values[place] < alpha / left
        left -= is_seen
    return levels


def student_quantile(above: float, freedom: float) -> float:
    """Return the value that Student's t exceeds with probability `above`."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, above))


def _student_tail(value: float, freedom: float) -> float:
    """Return the probability that Student's t exceeds `value`."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -value))


def _binomial_tail(most: int, num: int) -> float:
    """Return the probability of at most so many heads in `num` throws of a coin."""
    from scipy.special import bdtr

    return float(bdtr(most, num, 0.5))
