"""What is settled before the first step; real trainings are the test of the rest (``integration/test_training*``)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.instructlab.rank.loop import Loop
from sft.adapters.instructlab.settings import WorkerOptions

pytestmark = [
    pytest.mark.slow,  # imports torch
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.mark.parametrize(("data_seed", "of_order"), [(None, 3), (9, 9), (0, 0)])
def test_data_seed_is_that_of_the_order_alone(
    data_seed: int | None, of_order: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    args = argparse.Namespace(
        output_dir=str(tmp_path), seed=3, fsdp_sharding_strategy="NO_SHARD", effective_batch_size=2, num_epochs=1
    )
    training = Loop(args, WorkerOptions(data_seed=data_seed), tmp_path, after_step=lambda: None)
    seeds: list[Any] = []

    class Loader:
        sampler, dataset = None, (1, 2, 3)

        def __len__(self) -> int:
            return 2

    def make(**kwargs: Any) -> tuple[Loader, None]:
        seeds.append(kwargs["seed"])
        return Loader(), None

    training._hooked_loaders(make)(seed=args.seed)
    assert seeds == [of_order]
    assert args.seed == 3  # dropout's and noise's (worker.py)
