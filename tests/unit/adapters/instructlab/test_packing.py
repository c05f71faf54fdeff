"""How a batch is divided: whole, within the budget, evenly over the ranks, and no dearer than the library does it."""

from __future__ import annotations

import itertools
import random

import pytest

from sft.adapters.instructlab.packing import NOTHING, OVERHEAD, pack, padded_length

pytestmark = [
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
Every = list[list[list[int]]]


def lengths_of(seed: int, num_samples: int, longest: int) -> list[int]:
    numbers = random.Random(seed)
    return [min(longest, int(numbers.lognormvariate(4.5, 0.8)) + 5) for _ in range(num_samples)]


def seconds(every: Every, lengths: list[int], budget: int) -> int:
    """What a step takes: at each turn the ranks wait for the one with the most tokens."""
    turns = itertools.zip_longest(*every, fillvalue=NOTHING)
    return sum(OVERHEAD + max(tokens(minibatch, lengths, budget) for minibatch in turn) for turn in turns)


def tokens(minibatch: list[int], lengths: list[int], budget: int) -> int:
    if minibatch == NOTHING:
        return 0
    return padded_length(max(lengths[index] for index in minibatch), budget) * len(minibatch)


@pytest.mark.long
@pytest.mark.slow  # imports the library, to compare
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("budget", [512, 2048, 10_000])
def test_every_sample_once_within_the_budget_and_as_many_minibatches_on_each_rank(num_ranks: int, budget: int) -> None:
    from instructlab.training.padded_batch_packer import batch_lengths_to_minibatches_padded as upstream

    ours = theirs = 0
    for seed in range(40):
        lengths = lengths_of(seed, num_samples=1 + 3 * seed, longest=500)
        every = [pack(lengths, budget, num_ranks, rank) for rank in range(num_ranks)]
        assert len({len(mine) for mine in every}) == 1
        assert sorted(i for mine in every for minibatch in mine if minibatch != NOTHING for i in minibatch) == list(
            range(len(lengths))
        )
        for minibatch in itertools.chain.from_iterable(every):
            assert tokens(minibatch, lengths, budget) <= budget
            assert len(minibatch) <= 64
        ours += seconds(every, lengths, budget)
        theirs += seconds([upstream(lengths, budget, num_ranks, rank) for rank in range(num_ranks)], lengths, budget)
    assert ours <= theirs


@pytest.mark.parametrize("seed", range(20))
def test_on_one_rank_no_division_of_the_sorted_samples_is_cheaper(seed: int) -> None:
    lengths = sorted(lengths_of(seed, num_samples=9, longest=400), reverse=True)
    every = []
    for cuts in itertools.product((False, True), repeat=len(lengths) - 1):
        division = [[0]]
        for index, cut in enumerate(cuts, start=1):
            if cut:
                division.append([index])
            else:
                division[-1].append(index)
        if all(tokens(minibatch, lengths, 1024) <= 1024 for minibatch in division):
            every.append(seconds([division], lengths, 1024))
    assert seconds([pack(lengths, 1024, 1, 0)], lengths, 1024) == min(every)


def test_fewer_samples_than_ranks_leave_some_with_nothing() -> None:
    assert [pack([7, 9], 100, 3, rank) for rank in range(3)] == [[[1]], [[0]], [NOTHING]]
    assert pack([], 100, 2, 0) == []


@pytest.mark.parametrize(
    ("longest", "budget", "padded"), [(1, 1000, 32), (32, 1000, 32), (33, 1000, 64), (995, 1000, 1000), (50, 50, 50)]
)
def test_lengths_are_rounded_up_within_the_budget(longest: int, budget: int, padded: int) -> None:
    assert padded_length(longest, budget) == padded
