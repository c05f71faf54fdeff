"""The paired difference against closed forms, another implementation, and simulations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sft.paired import NotPaired, PairedDifference, compare, holm
from sft.sample_values import SampleValues


def values(sums: Sequence[float], **changes: Any) -> SampleValues:
    return SampleValues(score="t.m", units=list(range(len(sums))), sums=[float(number) for number in sums], **changes)


def drawn(seed: int, num: int = 40) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    difficulty = random.normal(size=num)
    return difficulty + random.normal(size=num), difficulty + random.normal(size=num) + 0.3


@pytest.mark.parametrize("seed", range(3))
def test_a_difference_of_means_is_scipys_paired_t_test(seed: int) -> None:
    before, after = drawn(seed)
    found = compare(values(before), values(after))
    expected = stats.ttest_rel(after, before)
    assert found.difference == pytest.approx(np.mean(after - before))
    assert found.stderr == pytest.approx(np.std(after - before, ddof=1) / math.sqrt(40))
    assert found.p_value == pytest.approx(expected.pvalue)
    for confidence in (0.8, 0.95, 0.999):
        assert found.interval(confidence) == pytest.approx(expected.confidence_interval(confidence))


@pytest.mark.parametrize(("only_before", "only_after"), [(3, 9), (0, 5), (0, 6), (10, 30), (1, 0)])
def test_answers_that_are_right_or_wrong_are_at_least_as_doubtful_as_mcnemars_exact_test(
    only_before: int, only_after: int
) -> None:
    before = [1] * only_before + [0] * only_after + [1] * 20 + [0] * 20
    after = [0] * only_before + [1] * only_after + [1] * 20 + [0] * 20
    found = compare(values(before), values(after))
    exact = stats.binomtest(only_after, only_before + only_after, 0.5).pvalue
    student = stats.ttest_rel(after, before).pvalue
    assert found.p_value == pytest.approx(max(exact, student))
    for confidence in (0.9, 0.95, 0.99):
        low, high = found.interval(confidence)
        assert (low > 0 or high < 0) == (found.p_value < 1 - confidence)


@pytest.mark.parametrize("after", [[1, 1, 1, 1, 1], [0.5, 0.51, 0.5, 0.52, 0.5], [0.1, 0.1], [5, 4]])
def test_fewer_than_six_samples_say_nothing_however_much_they_agree(after: Sequence[float]) -> None:
    low, high = compare(values([0] * len(after)), values(after)).interval(0.95)
    assert low <= 0 <= high


def test_six_right_answers_of_six_say_better_and_not_by_how_much() -> None:
    found = compare(values([0] * 6), values([1] * 6))
    assert (found.difference, found.p_value) == (1.0, pytest.approx(1 / 32))
    assert found.stderr == pytest.approx(np.std([1, 1, 1, 1, 1, 1, 0], ddof=1) / math.sqrt(7))
    assert found.interval(0.95) == pytest.approx((1 - 2.5706 / 7, 1 + 2.5706 / 7), abs=1e-4)


def test_a_large_difference_has_the_interval_of_the_t_test() -> None:
    random = np.random.default_rng(0)
    before, after = random.normal(size=300), random.normal(50, 1, 300)
    expected = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert compare(values(before), values(after)).interval(0.95) == pytest.approx(expected)


def test_one_model_twice_has_no_difference_and_no_error() -> None:
    before, _ = drawn(0)
    found = compare(values(before), values(before))
    assert (found.difference, found.stderr, found.p_value) == (0.0, 0.0, 1.0)
    assert found.interval(0.95) == (0.0, 0.0)


def test_a_difference_of_ratios_agrees_with_the_jackknife() -> None:
    """The jackknife knows no formula: it computes the scores anew without each cluster."""
    random = np.random.default_rng(5)
    counts, others = random.integers(1, 90, 400).astype(float), random.integers(1, 90, 400).astype(float)
    before, after = counts * random.gamma(2, 1, 400), others * random.gamma(2, 0.9, 400)
    clusters = [int(cluster) for cluster in random.integers(0, 150, 400)]
    found = compare(values(before, counts=list(counts)), values(after, counts=list(others), clusters=list(clusters)))

    def difference(keep: np.ndarray) -> float:
        return float(after[keep].sum() / others[keep].sum() - before[keep].sum() / counts[keep].sum())

    names = np.unique(clusters)
    left_out = [difference(np.array(clusters) != name) for name in names]
    jackknife = math.sqrt((len(names) - 1) * np.var(left_out))
    assert found.num_units == len(names)
    assert found.difference == pytest.approx(difference(np.full(400, True)))
    assert found.stderr == pytest.approx(jackknife, rel=1e-3)  # which is about the mean of the scores without a cluster


def test_long_samples_leave_fewer_degrees_of_freedom() -> None:
    before, after = drawn(3)
    assert compare(values(before), values(after)).freedom == 39
    lengths = [1.0] * 36 + [50.0] * 4
    sums = [list(side * lengths) for side in (before, after)]
    found = compare(values(sums[0], counts=lengths), values(sums[1], counts=lengths))
    assert found.freedom == pytest.approx((36 + 4 * 50**2) ** 2 / (36 + 4 * 50**4) - 1)


def test_skewed_differences_need_halls_t_to_agree_at_half_the_level() -> None:
    after = stats.lognorm(1).ppf((np.arange(50) + 0.5) / 50) - 1.1  # a few large ones, all else below
    found = compare(values([0] * 50), values(after))
    t, skewness = stats.ttest_1samp(after, 0).statistic, stats.skew(after, bias=False)
    assert 25 * skewness**2 > 50
    assert found.is_skewed
    by = skewness / math.sqrt(50)
    corrected = t + by * t**2 / 3 + by**2 * t**3 / 27 + by / 6
    halls = 2 * stats.t(49).sf(abs(corrected))
    assert found.p_value == pytest.approx(2 * max(halls, stats.ttest_1samp(after, 0).pvalue))
    for confidence in (0.8, 0.95, 0.99):
        low, high = found.interval(confidence)
        assert (low > 0 or high < 0) == (found.p_value < 1 - confidence)


def test_a_large_difference_is_seen_however_skewed_it_is() -> None:
    after = 5 + stats.lognorm(1).ppf((np.arange(20) + 0.5) / 20)
    found = compare(values([0] * 20), values(after))
    assert found.is_skewed
    assert found.interval(0.95)[0] > 4


def test_samples_that_are_many_for_their_skewness_have_students_interval() -> None:
    after = stats.lognorm(0.3).ppf((np.arange(300) + 0.5) / 300) - 1
    found = compare(values([0] * 300), values(after))
    assert not found.is_skewed
    assert found.interval(0.95) == pytest.approx(stats.ttest_1samp(after, 0).confidence_interval(0.95))


def test_clusters_of_equal_samples_are_no_more_sure_than_one_of_each() -> None:
    before, after = drawn(1)
    once = compare(values(before), values(after))
    four_times = values(np.repeat(after, 4), clusters=[place // 4 for place in range(160)])
    found = compare(values(np.repeat(before, 4)), four_times)
    assert (found.difference, found.stderr, found.num_units) == pytest.approx((once.difference, once.stderr, 40))


def test_a_perplexity_has_its_losss_verdict_and_an_interval_of_perplexities() -> None:
    before, after = drawn(2)
    loss = compare(values(before), values(after))
    found = compare(values(before, is_exponential=True), values(after, is_exponential=True))
    assert found.p_value == loss.p_value
    base = math.exp(np.mean(before))
    assert found.interval(0.95) == pytest.approx([base * math.exp(end) - base for end in loss.interval(0.95)])


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (values([1]), values([2]), "one sample has no error"),
        (values([1, 2], clusters=[0, 0]), values([2, 4], clusters=[0, 0]), "one sample has no error"),
        (values([1, 2]), values([1, 2, 3]), "not scored on the same samples"),
    ],
)
def test_what_is_not_paired_is_refused(before: SampleValues, after: SampleValues, why: str) -> None:
    with pytest.raises(NotPaired, match=why):
        compare(before, after)


@pytest.mark.parametrize(
    ("p_values", "levels"),
    [
        ([0.01], [0.95]),
        ([0.04, 0.001, 0.03], [0.975, 1 - 0.05 / 3, 0.975]),  # the second is seen, then 0.03 is not below 0.025
        ([0.024, 0.001, 0.04], [0.975, 1 - 0.05 / 3, 0.95]),
        ([0.5, 0.5], [0.975, 0.975]),
        ([], []),
    ],
)
def test_holms_levels_are_those_at_which_each_test_was_held(p_values: list[float], levels: list[float]) -> None:
    assert holm(p_values, 0.95) == pytest.approx(levels)


def test_holms_levels_reject_what_adjusted_p_values_reject() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        p_values = list(random.random(int(random.integers(1, 9))) ** 4)
        order = np.argsort(p_values)
        adjusted = np.empty(len(p_values))
        adjusted[order] = np.maximum.accumulate([(len(p_values) - k) * p_values[p] for k, p in enumerate(order)])
        rejected = [p < 1 - level for p, level in zip(p_values, holm(p_values, 0.95), strict=True)]
        assert rejected == list(adjusted < 0.05)


def test_a_detectable_difference_is_seen_four_times_in_five() -> None:
    random = np.random.default_rng(0)
    size = PairedDifference(difference=0, stderr=1 / math.sqrt(50), num_units=50, freedom=49, p_value=1).detectable(
        0.95
    )
    seen = 0
    for _ in range(2000):
        low, _ = compare(values(np.zeros(50)), values(random.normal(size, 1, 50))).interval(0.95)
        seen += low > 0
    assert seen / 2000 == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("num", [8, 50])
def test_verdicts_without_a_difference_are_as_rare_as_the_confidence_says(num: int) -> None:
    random = np.random.default_rng(num)
    wrong = 0
    for _ in range(2000):
        is_easy = random.random(num)
        before, after = ((random.random(num) < is_easy).astype(float) for _ in range(2))
        low, high = compare(values(before), values(after)).interval(0.95)
        wrong += low > 0 or high < 0
    assert wrong / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
