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
    with minibatches.patched_packers(1000):
        made = sampler.padded_mb_collate_fn(samples, 2, 9)
        assert sampler.batch_lengths_to_minibatches_padded is pack
    assert sampler.batch_lengths_to_minibatches_padded is not pack
    assert made["input_ids"].tolist() == [[5, 6, 7] + [9] * 29, [8] + [9] * 31]
    assert made["labels"].tolist() == [[-100, 6, 7] + [-100] * 29, [-100] * 32]
    assert made["attention_mask"].tolist() == [[1, 1, 1] + [0] * 29, [1] + [0] * 31]
    assert made["total_length"] == 64
    assert made["num_samples"] == 1  # the library's: those with a loss token
    assert (made["num_tokens"], made["num_squares"]) == (3, 9)  # a dummy's are none


def test_a_packed_row_is_filled_up_by_a_sample_of_its_own_and_brings_the_bounds() -> None:
    import torch
    from instructlab.training import sampler

    samples = [
        {"input_ids": torch.tensor([5, 6, 7]), "labels": torch.tensor([-100, 6, 7]), "num_loss_counted_tokens": 2},
        {"input_ids": [8], "labels": [8], "num_loss_counted_tokens": 1},
    ]
    with minibatches.patched_packers(1000):
        made = sampler.mb_collate_fn(samples, 3)
        rows = [sampler.batch_lengths_to_minibatches_lpt([3, 1], 1000, 1, 0)]
    assert rows == [[[0, 1]]]
    assert made["input_ids"].tolist() == [[5, 6, 7, 8] + [0] * 12]
    assert made["labels"].tolist() == [[-100, 6, 7, 8] + [-100] * 12]
    assert made["position_ids"].tolist() == [[0, 1, 2, 0, *range(12)]]
    assert made["sample_lengths"] == [3, 1, 12]
    for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
        assert made[name].tolist() == [0, 3, 4, 16]
        assert made[name].dtype == torch.int32
    counts = (
        "num_tokens",
        "num_squares",
        "num_loss_counted_tokens",
        "num_samples",
        "batch_num_loss_counted_tokens",
        "total_length",
    )
    assert [made[name] for name in counts] == [4, 10, 3, 2, 3, 16]


def test_a_rank_with_nothing_computes_a_dummy_that_counts_as_padding() -> None:
    dummy = {"input_ids": [1] * 5, "labels": [-100] * 5, "num_loss_counted_tokens": 0}
    made = minibatches.collate_row([dummy], 7, token_budget=1000)
    assert (made["num_tokens"], made["num_samples"], made["total_length"]) == (0, 0, 16)


def test_a_full_row_is_not_filled_beyond_the_budget() -> None:
    samples = [{"input_ids": [1] * 50, "labels": [1] * 50, "num_loss_counted_tokens": 50}]
    assert minibatches.collate_row(samples, 50, token_budget=50)["sample_lengths"] == [50]
