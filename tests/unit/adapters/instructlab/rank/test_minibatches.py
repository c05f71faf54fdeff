"""The packer that the library calls is ours while it trains, and makes what the loop takes."""

from __future__ import annotations

import pytest

from sft.adapters.instructlab.packing import pack
from sft.adapters.instructlab.rank import minibatches

pytestmark = [
    pytest.mark.slow,  # imports torch
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]


def test_a_minibatch_is_padded_on_the_right_and_says_its_length() -> None:
    from instructlab.training import sampler

    samples = [
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "num_loss_counted_tokens": 2},
        {"input_ids": [8], "labels": [-100], "num_loss_counted_tokens": 0},
    ]
    with minibatches.patched_packer(1000):
        made = sampler.padded_mb_collate_fn(samples, 2, 9)
        assert sampler.batch_lengths_to_minibatches_padded is pack
    assert sampler.batch_lengths_to_minibatches_padded is not pack
    assert made["input_ids"].tolist() == [[5, 6, 7] + [9] * 29, [8] + [9] * 31]
    assert made["labels"].tolist() == [[-100, 6, 7] + [-100] * 29, [-100] * 32]
    assert made["attention_mask"].tolist() == [[1, 1, 1] + [0] * 29, [1] + [0] * 31]
    assert made["total_length"] == 64
    assert made["num_samples"] == 1  # the library's: those with a loss token
