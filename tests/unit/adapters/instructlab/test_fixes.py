"""Each mended trap, against what it mends."""

from __future__ import annotations

import random
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


def test_validation_tokens_count_once_however_many_ranks_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed as dist

    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    compute = fixes.counted_once(lambda: {"val_loss": 0.5, "val_num_tokens": 400})
    assert compute() == {"val_loss": 2.0, "val_num_tokens": 100}


def test_noise_is_added_to_each_samples_embeddings_while_training_and_never_when_scoring() -> None:
    import torch

    width, tokens, alpha = 16, 25, 5.0
    embeddings = torch.nn.Embedding(10, width)
    fixes.noisy_embeddings(SimpleNamespace(get_input_embeddings=lambda: embeddings), alpha)
    ids = torch.zeros(3, tokens, dtype=torch.long)
    noise = (embeddings(ids) - embeddings.weight[0]).abs().max()
    assert 0.9 * alpha / (tokens * width) ** 0.5 < noise <= alpha / (tokens * width) ** 0.5 + 1e-6
    embeddings.eval()
    assert torch.equal(embeddings(ids), embeddings.weight[0].expand(3, tokens, width))


@pytest.mark.parametrize(
    ("sharded", "device", "offloaded"), [(True, "cuda", True), (False, "cuda", False), (True, "cpu", False)]
)
def test_a_state_is_offloaded_only_where_torch_can(sharded: bool, device: str, offloaded: bool) -> None:
    seen: list[bool] = []

    def unshard(_module: Any, _state: Any, *, offload_to_cpu: bool, rank0_only: bool) -> None:
        seen.append(offload_to_cpu)

    handle = SimpleNamespace(uses_sharded_strategy=sharded, device=SimpleNamespace(type=device))
    fixes.unsharded_in_place(unshard)(None, SimpleNamespace(_handle=handle), offload_to_cpu=True, rank0_only=True)
    assert seen == [offloaded]


def test_trackers_are_not_imported_with_the_library_and_can_be_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for tracker in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, tracker, SimpleNamespace())  # puts back what was there, at the end
    fixes.without_trackers()
    with pytest.raises(ImportError):
        __import__("mlflow")
    fixes.with_trackers()
    assert "mlflow" not in sys.modules
