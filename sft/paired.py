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


class NotPaired(ValueError):
    """Two scores of which nothing can be said: the message says why."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A difference of two scores over the same samples, and how sure it is.

    Attributes:
        difference: After minus before; of a perplexity, of its logarithm (`on_scale`).
        stderr: Its standard error.
        num_units: Independent units: samples, or clusters of them.
        p_value: Two-sided, of no difference.
        scale: Of a perplexity, the value before; None for any other score.
    """

    difference: float
    stderr: float
    num_units: int
    p_value: float
    scale: float | None = None

    def margin(self, confidence: float) -> float:
        """Return half the width of the confidence interval: Student's t times the standard error.

        Where the exact test is less sure than t (`_p_value`), the interval reaches 0, so that the two never contradict.
        """
        margin = student_quantile((1 - confidence) / 2, self.num_units - 1) * self.stderr
        return margin if self.p_value < 1 - confidence else max(margin, abs(self.difference))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the confidence interval of the difference, as scores differ.

        Raises:
            NotPaired: As of `on_scale`.
        """
        margin = self.margin(confidence)
        return self.on_scale(self.difference - margin), self.on_scale(self.difference + margin)

    def detectable(self, confidence: float) -> float:
        """Return the least true difference that is seen with a probability of `POWER`, as scores differ.

        The error is taken for known: (t(1 - alpha / 2) + t(power)) x standard error (Miller, 2024, on power).
        """
        freedom = self.num_units - 1
        quantiles = student_quantile((1 - confidence) / 2, freedom) + student_quantile(1 - POWER, freedom)
        return self.on_scale(quantiles * self.stderr)

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
    moves = [later - earlier for earlier, later in zip(_moves(before, clusters), _moves(after, clusters), strict=True)]
    if (num := len(moves)) < 2:
        raise NotPaired("one sample has no error" if num else "there is no sample")
    difference = after.ratio - before.ratio
    stderr = math.sqrt(math.fsum(move * move for move in moves) * (num - 1) / num)
    shares = [(move * (num - 1) + difference) / num for move in moves]
    largest = max(map(abs, shares))
    sizes = [abs(share) for share in shares if abs(share) > _SAME_SIZE * largest]
    if sizes and max(sizes) - min(sizes) <= _SAME_SIZE * largest:
        stderr = max(stderr, largest * num / (num + 1))
    return PairedDifference(
        difference=difference,
        stderr=stderr,
        num_units=num,
        p_value=_p_value(difference, stderr, sizes, num),
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


def _p_value(difference: float, stderr: float, sizes: Sequence[float], num: int) -> float:
    """Return the two-sided p-value of no difference.

    It is Student's, but at least what the signs of the units' shares allow. If the two models were interchangeable,
    each share might as well have the other sign: of n shares that are not 0, none of the 2^n ways to draw the signs is
    more likely than another, so no p-value is below 2^(1-n). Where all shares have one size, as of a 0/1 metric, the
    test of signs is exact: McNemar's (*Psychometrika* 12, 1947).

    Args:
        difference: Of the scores.
        stderr: Its standard error.
        sizes: What each unit adds to the difference, without its sign; of the units that differ.
        num: Of all units.
    """
    if not sizes or difference == 0:
        return 1.0
    student = 2 * _student_tail(abs(difference) / stderr, num - 1) if stderr else 0.0
    if max(sizes) - min(sizes) > _SAME_SIZE * max(sizes):
        return max(student, 2.0 ** (1 - len(sizes)))
    fewer = round((len(sizes) - abs(difference) / max(sizes)) / 2)
    return max(student, min(1.0, 2 * _binomial_tail(fewer, len(sizes))))


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


def student_quantile(above: float, freedom: int) -> float:
    """Return the value that Student's t exceeds with probability `above`."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, above))


def _student_tail(value: float, freedom: int) -> float:
    """Return the probability that Student's t exceeds `value`."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -value))


def _binomial_tail(most: int, num: int) -> float:
    """Return the probability of at most so many heads in `num` throws of a coin."""
    from scipy.special import bdtr

    return float(bdtr(most, num, 0.5))
