"""The order of samples: of a seed and an epoch alone, and the same after a resume."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from sft.adapters.instructlab.rank.loader import order_seed, resuming_sampler

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
NUM = 50


def order(seed: int, epoch: int, *, num_seen: int = 0, num_wanted: int | None = None) -> list[int]:
    from instructlab.training.sampler import EpochSampler

    sampler: Any = resuming_sampler(EpochSampler, lambda: num_seen, lambda _: num_wanted)(NUM, seed=seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_no_two_epochs_of_any_seeds_share_their_order() -> None:
    orders = {tuple(order(seed, epoch)) for seed, epoch in product(range(4), range(4))}
    assert len(orders) == 16
    assert all(sorted(each) == list(range(NUM)) for each in orders)


def test_the_first_epoch_has_upstreams_order() -> None:
    from instructlab.training.sampler import EpochSampler

    upstream = EpochSampler(NUM, seed=7)
    assert order(7, 0) == list(upstream)
    upstream.set_epoch(1)
    assert list(upstream) == order(8, 0)  # which is why ours differs from it
    assert order(7, 1) != list(upstream)


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_resume_goes_on_where_it_was_stopped(epoch: int) -> None:
    assert order(3, epoch, num_seen=20) == order(3, epoch)[20:]


def test_a_seed_is_one_that_torch_takes() -> None:
    assert all(0 <= order_seed(seed, epoch) < 2**63 for seed, epoch in product((0, 42, 2**32 - 1), range(50)))


def test_an_epoch_that_ends_early_has_the_first_samples_of_the_whole_one() -> None:
    assert order(3, 1, num_seen=20, num_wanted=32) == order(3, 1)[20:32]
