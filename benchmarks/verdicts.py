"""How often two models are told apart that are the same, and that are not: paired tests beside unpaired errors.

    python benchmarks/verdicts.py [--pairs 2000] [--seed 1]

Simulates pairs of evaluations whose true difference is known. Without a difference every verdict is false: nominally at
most 5% are. With one, the share of right verdicts is the power. "before" is the rule that this one replaced: better or
worse if the difference exceeds the root of both squared standard errors, where a missing error counts as 0.

- answers: right or wrong, of two models that find the same questions hard (difficulty: normal, 2 logits wide).
- losses: per token, of conversations of 10 to 400 tokens, whose difficulty is log-normal and in which the models differ
  by noise of Student's t with 3 degrees of freedom: heavy tails.
- skewed losses: the same, but the tuned model fails badly on one conversation in 20 and is a little better elsewhere,
  so that the means are equal.
- extreme losses: differences that are log-normal (sigma = 1, skewness 6), of 20 samples on. With few such samples no
  interval of a mean keeps its level (Bahadur and Savage, 1956), and this is far from what evaluations give.
- clusters: five conversations to a prompt, which share half of the noise.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sft.adapters.evaluation.aggregate import mean
from sft.paired import NotPaired, compare, holm
from sft.sample_values import SampleValues

CONFIDENCE = 0.95
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Two evaluations of the same samples.

    Attributes:
        before: Sum over each sample, of the base model.
        after: The same of the tuned one.
        counts: Tokens of each sample.
        clusters: What samples share.
    """

    before: Array
    after: Array
    counts: Array
    clusters: Sequence[int] = ()

    def values(self, sums: Array) -> SampleValues:
        """Return one side as an evaluation keeps it."""
        units: list[int | str] = list(range(len(sums)))
        counts = [] if np.all(self.counts == 1) else self.counts.tolist()
        return SampleValues(score="s", units=units, sums=sums.tolist(), counts=counts, clusters=[*self.clusters])


def answers(random: np.random.Generator, num: int, effect: float) -> Pair:
    """Return what two models got right: `effect` is the tuned one's advantage in logits."""
    difficulty = random.normal(0, 2, num)
    before, after = (
        (random.random(num) < 1 / (1 + np.exp(-(difficulty + shift)))).astype(float) for shift in (0, effect)
    )
    return Pair(before, after, np.ones(num))


def losses(random: np.random.Generator, num: int, effect: float) -> Pair:
    """Return losses of two models; `effect` is by how much the tuned one's loss per token is lower."""
    counts = random.integers(10, 401, num).astype(float)
    shared = random.lognormal(0, 0.6, num)
    noise = 0.1 * random.standard_t(3, (2, num))
    return Pair((shared + noise[0]) * counts, (shared + noise[1] - effect) * counts, counts)


def skewed_losses(random: np.random.Generator, num: int, effect: float) -> Pair:
    """Return losses of a base model and of one that fails on one conversation in 20."""
    pair = losses(random, num, effect)
    share, worse = 0.05, 1.0
    failures = (random.random(num) < share) * worse - share * worse
    return Pair(pair.before, pair.after + failures * pair.counts, pair.counts)


def extreme_losses(random: np.random.Generator, num: int, effect: float) -> Pair:
    """Return losses of which a few differ by far more than all others."""
    counts = random.integers(10, 401, num).astype(float)
    shared = random.lognormal(0, 0.6, num)
    differences = 0.2 * (random.lognormal(0, 1, num) - np.exp(0.5))
    return Pair(shared * counts, (shared + differences - effect) * counts, counts)


def clusters(random: np.random.Generator, num: int, effect: float) -> Pair:
    """Return losses of which every five share half of the variance of their difference."""
    of = np.arange(num) // 5
    shared = random.lognormal(0, 0.6, num)
    common, own = random.normal(0, 0.1, (2, num)), random.normal(0, 0.1, (2, num))
    before, after = (shared + common[side, of] + own[side] for side in (0, 1))
    return Pair(before, after - effect, np.ones(num), of.tolist())


def paired_verdict(pair: Pair, sign: int) -> int:
    """Return 1 for better, -1 for worse, 0 for no verdict; `sign` is the direction of the metric."""
    try:
        low, high = compare(pair.values(pair.before), pair.values(pair.after)).interval(CONFIDENCE)
    except NotPaired:
        return 0
    return sign * (int(low > 0) - int(high < 0))


def verdict_before(pair: Pair, sign: int) -> int:
    """Return the verdict of the rule that was replaced."""
    (before, first), (after, second) = (mean(sums.tolist(), pair.counts.tolist()) for sums in (pair.before, pair.after))
    error = 0.0 if first is None or second is None else math.hypot(first, second)
    return sign * int(np.sign(after - before)) if abs(after - before) > error else 0


Draw = Callable[[np.random.Generator, int, float], Pair]
CASES: list[tuple[str, Draw, int, list[int], list[float]]] = [
    ("answers", answers, 1, [1, 5, 20, 100, 300], [0.0, 0.3, 1.0]),
    ("losses", losses, -1, [5, 20, 100, 300], [0.0, 0.03, 0.1]),
    ("skewed losses", skewed_losses, -1, [20, 50, 100, 300], [0.0, 0.1]),
    ("extreme losses", extreme_losses, -1, [20, 50, 100, 300], [0.0, 0.1]),
    ("clusters of five", clusters, -1, [25, 100, 300], [0.0, 0.05]),
]


def measured(draw: Draw, sign: int, num: int, effect: float, num_pairs: int, seed: int) -> tuple[float, ...]:
    """Return the true difference, and the shares of right and of wrong verdicts, ours and those of the rule before."""
    random = np.random.default_rng([seed, num, round(1000 * effect)])
    pairs = [draw(random, num, effect) for _ in range(num_pairs)]
    many = draw(random, 1_000_000, effect)
    difference = float((many.after.sum() - many.before.sum()) / many.counts.sum())
    shares = []
    for rule in (paired_verdict, verdict_before):
        verdicts = np.array([rule(pair, sign) for pair in pairs])
        is_right = verdicts == 1 if effect else np.zeros(num_pairs, dtype=bool)
        shares += [float(is_right.mean()), float(((verdicts != 0) & ~is_right).mean())]
    return (difference, *shares)


def families(num_pairs: int, seed: int) -> tuple[float, float]:
    """Return how often any of ten scores without a difference has a verdict: with Holm's method, and without."""
    random = np.random.default_rng(seed)
    corrected = alone = 0
    for _ in range(num_pairs):
        tests = [compare(p.values(p.before), p.values(p.after)) for p in (losses(random, 100, 0.0) for _ in range(10))]
        levels = holm([test.p_value for test in tests], CONFIDENCE)
        corrected += any(test.p_value < 1 - level for test, level in zip(tests, levels, strict=True))
        alone += any(test.p_value < 1 - CONFIDENCE for test in tests)
    return corrected / num_pairs, alone / num_pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"python benchmarks/verdicts.py --pairs {options.pairs} --seed {options.seed}\n")
    print("| simulated | samples | true difference | right | false | right, before | false, before |")
    print("|---|---|---|---|---|---|---|")
    for name, draw, sign, sizes, effects in CASES:
        for effect in effects:
            for num in sizes:
                found = measured(draw, sign, num, effect, options.pairs, options.seed)
                difference, right, false, right_before, false_before = found
                cells = [f"{difference:+.3f}" if effect else "0", f"{right:.1%}" if effect else "–", f"{false:.1%}"]
                cells += [f"{right_before:.1%}" if effect else "–", f"{false_before:.1%}"]
                print(f"| {name} | {num} | {' | '.join(cells)} |")
    corrected, alone = families(options.pairs // 4, options.seed)
    print(
        f"\nany false verdict among 10 scores of 100 samples: {corrected:.1%} with Holm's method, {alone:.1%} without"
    )


if __name__ == "__main__":
    main()
