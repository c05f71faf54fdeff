"""Each mended trap, against what it mends."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab import fixes

pytestmark = [
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]


@pytest.fixture
def alone(tmp_path: Path) -> Any:
    """A process group of one, as the mends ask for their rank and wait for the others."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield dist
    dist.destroy_process_group()


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_ranks_get_equal_numbers_of_minibatches_and_every_sample_once(num_ranks: int) -> None:
    from instructlab.training.padded_batch_packer import batch_lengths_to_minibatches_padded as upstream

    numbers = random.Random(0)
    unequal = 0
    for _ in range(100):
        lengths = [numbers.randint(5, 120) for _ in range(numbers.randint(1, 40))]
        packs = [
            [pack(lengths, 128, num_ranks, rank) for rank in range(num_ranks)]
            for pack in (upstream, fixes.even_counts(upstream))
        ]
        unequal += len({len(batches) for batches in packs[0]}) > 1
        assert len({len(batches) for batches in packs[1]}) == 1
        samples = [i for batches in packs[1] for batch in batches for i in batch if i != -1]
        assert sorted(samples) == list(range(len(lengths)))
    assert unequal > 10  # what deadlocks without the mend


def test_a_state_without_its_mark_is_removed_before_one_is_loaded(tmp_path: Path, alone: Any) -> None:
    whole, cut = (tmp_path / "full_state" / f"epoch_{epoch}" for epoch in (0, 1))
    for state in (whole, cut):
        state.mkdir(parents=True)
        (state / "training_metadata.json").touch()
    (whole / fixes.WHOLE).touch()
    seen: list[list[str]] = []

    def load(args: Any, accelerator: Any) -> None:
        seen.append([path.name for path in (Path(args.output_dir) / "full_state").iterdir()])

    fixes.whole_states_only(load)(args=SimpleNamespace(output_dir=tmp_path), accelerator=None)
    assert seen == [["epoch_0"]]


def test_only_the_newest_state_and_checkpoint_stay_and_the_state_is_marked(tmp_path: Path, alone: Any) -> None:
    def save(*, args: Any, epoch: int, full_state: bool) -> None:
        (tmp_path / "full_state" / f"epoch_{epoch}").mkdir(parents=True)
        (tmp_path / "hf_format" / f"samples_{(epoch + 1) * 100}").mkdir(parents=True)

    for epoch in (8, 9, 10):
        args = SimpleNamespace(output_dir=str(tmp_path))
        fixes.keeping_the_newest(save)(args=args, epoch=epoch, full_state=True)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.glob("*_*/*"))] == [
        "full_state/epoch_10",
        "hf_format/samples_1100",
    ]
    assert (tmp_path / "full_state" / "epoch_10" / fixes.WHOLE).exists()


def test_the_variables_of_trackers_do_not_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import sys

    for tracker in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, tracker, SimpleNamespace())  # puts back what was there, at the end
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://registry.example")
    fixes.without_trackers()
    assert "MLFLOW_TRACKING_URI" not in os.environ
    with pytest.raises(ImportError):
        __import__("mlflow")
