"""How a batch is divided into packed rows: whole, few rows, equal work, hardly any padding."""

from __future__ import annotations

import itertools
import json
import os
import random
from pathlib import Path

import pytest

from sft.adapters.instructlab.packed_rows import DUMMY_LENGTH, cost, divide_rows, num_computed, pack_rows, row_length
from sft.adapters.instructlab.packing import NOTHING


def chats(seed: int, num: int, longest: int = 8000) -> list[int]:
    """Lengths with a long tail."""
    numbers = random.Random(seed)
    return [min(longest, int(numbers.lognormvariate(6, 1.1)) + 10) for _ in range(num)]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("budget", [600, 2048, 10_000])
def test_every_sample_once_within_the_budget_and_as_many_rows_on_each_rank(num_ranks: int, budget: int) -> None:
    for seed in range(30):
        lengths = chats(seed, num=1 + 3 * seed, longest=600)
        every = [pack_rows(lengths, budget, num_ranks, rank, attention_cost=1e-3) for rank in range(num_ranks)]
        assert len({len(mine) for mine in every}) == 1
        rows = [row for mine in every for row in mine if row != NOTHING]
        assert sorted(itertools.chain.from_iterable(rows)) == list(range(len(lengths)))
        for row in rows:
            assert num_computed(row, lengths, budget) <= budget
            assert [lengths[i] for i in row] == sorted((lengths[i] for i in row), reverse=True)


def fewest(lengths: list[int], budget: int) -> int:
    """By trying every division."""
    best = len(lengths)
    for rows in itertools.product(range(len(lengths)), repeat=len(lengths)):
        full = [sum(length for length, own in zip(lengths, rows, strict=True) if own == row) for row in set(rows)]
        if max(full) <= budget:
            best = min(best, len(full))
    return best


@pytest.mark.parametrize("seed", range(8))
def test_there_are_as_few_rows_as_can_be(seed: int) -> None:
    numbers = random.Random(seed)
    lengths = [numbers.randint(10, 60) for _ in range(5)]
    best = fewest(lengths, 100)
    for num_ranks in (1, 2):
        assert len(divide_rows(lengths, 100, num_ranks)) == num_ranks * -(-best // num_ranks)


def test_a_tight_budget_takes_no_row_more_than_it_must() -> None:
    lengths = [60, 50, 40, 30, 20]  # the cheapest row has no room for the last one
    assert len(divide_rows(lengths, 100, 2)) == 2


@pytest.mark.parametrize("seed", range(8))
def test_the_dearest_row_is_within_grahams_bound_of_the_best_division(seed: int) -> None:
    numbers, num_ranks, attention_cost = random.Random(seed), 3, 1 / 50
    lengths = [numbers.randint(5, 200) for _ in range(8)]

    def dearest(rows: list[list[int]]) -> float:
        return max(sum(cost(lengths[index], attention_cost) for index in row) for row in rows)

    best = min(
        dearest([[i for i, own in enumerate(ranks) if own == rank] for rank in range(num_ranks)])
        for ranks in itertools.product(range(num_ranks), repeat=len(lengths))
    )
    found = divide_rows(lengths, 10_000, num_ranks, attention_cost=attention_cost)
    assert dearest(found) <= (4 / 3 - 1 / (3 * num_ranks)) * best


def test_a_long_sample_costs_more_than_as_many_tokens_of_short_ones() -> None:
    lengths = [1000, *[100] * 20]
    plain, by_work = (divide_rows(lengths, 10_000, 2, attention_cost=each) for each in (0.0, 1 / 1000))
    assert {len(row) for row in plain} == {6, 15}
    assert {len(row) for row in by_work} == {2, 19} or {len(row) for row in by_work} == {1, 20}


def test_fewer_samples_than_ranks_leave_some_with_nothing() -> None:
    assert [pack_rows([7, 9], 100, 3, rank) for rank in range(3)] == [[[1]], [[0]], [NOTHING]]
    assert pack_rows([], 100, 2, 0) == []
    assert num_computed([], [7, 9], 100) == row_length(DUMMY_LENGTH, 100)


def useful(lengths: list[int], budget: int) -> float:
    """The share of computed tokens that are samples', in batches of 128 on 8 ranks."""
    computed = 0
    for begin in range(0, len(lengths), 128):
        batch = lengths[begin : begin + 128]
        rows = divide_rows(batch, budget, 8, attention_cost=1 / 8000)
        computed += sum(num_computed(row, batch, budget) for row in rows)
    return sum(lengths) / computed


@pytest.mark.skipif("SFT_TEST_DATA" not in os.environ, reason="needs GSM8K")
@pytest.mark.parametrize("budget", [2048, 10_000])
def test_of_gsm8k_on_8_ranks_98_tokens_of_100_are_useful(budget: int) -> None:
    file = Path(os.environ["SFT_TEST_DATA"]) / "data" / "gsm8k" / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert useful([(len(row["question"]) + len(row["answer"])) // 4 for row in rows], budget) > 0.98


def test_of_chats_with_a_long_tail_on_8_ranks_98_tokens_of_100_are_useful() -> None:
    assert useful(chats(0, num=4000), 10_000) > 0.98
