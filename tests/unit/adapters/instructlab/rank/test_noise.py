"""NEFTune's noise, by each sample's own length."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank import loss, noise
from sft.adapters.instructlab.rank.minibatches import collate_row
from sft.errors import StageError

pytestmark = [
    pytest.mark.slow,  # imports torch
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]

WIDTH, ALPHA, LENGTHS = 4096, 5.0, (3, 9)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    noise.LENGTHS.__init__()  # type: ignore[misc]


def minibatch(*, packed: bool) -> dict[str, Any]:
    from instructlab.training.sampler import padded_mb_collate_fn

    samples = [{"input_ids": [1] * n, "labels": [1] * n, "num_loss_counted_tokens": n} for n in LENGTHS]
    return (
        collate_row(samples, 1, token_budget=sum(LENGTHS))
        if packed
        else padded_mb_collate_fn(samples, 1, pad_token_id=1)
    )


def largest(embeddings: Any, ids: Any) -> list[float]:
    """The largest noise of each token."""
    return (embeddings(ids) - embeddings.weight[1]).abs().amax(-1).flatten().tolist()


@pytest.mark.parametrize("packed", [True, False])
def test_noise_is_scaled_by_the_sample_and_not_by_what_shares_its_row_or_minibatch(packed: bool) -> None:
    import torch

    embeddings = torch.nn.Embedding(2, WIDTH)
    noise.add_noisy_embeddings(SimpleNamespace(get_input_embeddings=lambda: embeddings), ALPHA)
    batch = minibatch(packed=packed)
    loss.inputs(batch, SimpleNamespace(config=None), "cpu")
    found = largest(embeddings, batch["input_ids"])
    lengths = [3] * 3 + ([] if packed else [3] * 6) + [9] * 9
    for size, length in zip(found, lengths, strict=True):
        bound = ALPHA / (length * WIDTH) ** 0.5
        assert 0.99 * bound < size <= bound * 1.0001
    embeddings.eval()
    assert largest(embeddings, batch["input_ids"]) == [0.0] * len(lengths)


def test_noise_without_known_lengths_is_refused() -> None:
    import torch

    embeddings = torch.nn.Embedding(2, 8)
    noise.add_noisy_embeddings(SimpleNamespace(get_input_embeddings=lambda: embeddings), ALPHA)
    with pytest.raises(StageError, match="lengths of this minibatch's samples are not known"):
        embeddings(torch.ones(1, 3, dtype=torch.long))


def test_without_noise_no_length_is_looked_for() -> None:
    noise.add_noisy_embeddings(None, None)
    noise.LENGTHS.note({}, "cpu")
    assert noise.LENGTHS.of_tokens is None
