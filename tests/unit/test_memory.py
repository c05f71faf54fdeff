"""The memory estimate: how it moves with each thing that it depends on, and what it can't know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sft.memory import (
    Setup,
    Shape,
    Sharding,
    bytes_per_token,
    fixed_bytes,
    largest_budget,
    model_bytes,
    peak_bytes,
    shape_of,
    state_bytes,
)

QWEN = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
COUNT = 1_543_714_304  # what the hub says of Qwen2.5-1.5B
EIGHT = Setup(ranks=8, ranks_per_node=4, max_tokens=10_000, value_bytes=2, gradient_checkpointing=True, on_gpu=True)


def qwen() -> Shape:
    shape = shape_of(QWEN, COUNT)
    assert shape is not None
    return shape


def test_a_shape_is_read_from_a_config_with_its_root_and_layers() -> None:
    shape = qwen()
    assert shape.num_root == 151_936 * 1536 + 1536
    assert shape.per_layer == 46_797_824  # 28 of them and the root are all
    assert shape.per_layer * 28 + shape.num_root == COUNT
    untied = shape_of({**QWEN, "tie_word_embeddings": False}, COUNT)
    assert untied is not None
    assert untied.num_root == 2 * 151_936 * 1536 + 1536
    assert shape_of({"text_config": QWEN}, COUNT) == shape


@pytest.mark.parametrize(("config", "count"), [({"n_embd": 768}, 1), (QWEN, None), ({}, 1)])
def test_a_shape_that_is_not_known_is_no_guess(config: dict[str, object], count: int | None) -> None:
    assert shape_of(config, count) is None


def test_more_sharding_needs_less() -> None:
    needed = [peak_bytes(qwen(), s, EIGHT) for s in (Sharding.FULL_SHARD, Sharding.HYBRID_SHARD, Sharding.NO_SHARD)]
    assert needed == sorted(needed)
    assert needed[-1] - needed[0] > 14 * COUNT  # 16 bytes a parameter, and an eighth of them
    assert peak_bytes(qwen(), Sharding.FULL_SHARD, EIGHT) < peak_bytes(qwen(), Sharding.SHARD_GRAD_OP, EIGHT)


def test_a_token_costs_its_logits_and_what_the_backward_pass_keeps() -> None:
    logits = 18 * 151_936
    assert bytes_per_token(qwen(), EIGHT) == logits + 1536 * (2 * 28 + 34)
    without = replace(EIGHT, gradient_checkpointing=False)
    assert bytes_per_token(qwen(), without) == logits + 1536 * 34 * 28
    fp32 = replace(without, value_bytes=4)
    assert bytes_per_token(qwen(), fp32) == logits + 2 * 1536 * 34 * 28


def test_the_largest_budget_is_the_last_that_fits() -> None:
    available = 80 * 2**30
    budget = largest_budget(qwen(), Sharding.FULL_SHARD, EIGHT, available)
    assert peak_bytes(qwen(), Sharding.FULL_SHARD, replace(EIGHT, max_tokens=budget)) <= available
    assert peak_bytes(qwen(), Sharding.FULL_SHARD, replace(EIGHT, max_tokens=budget + 1)) > available
    assert largest_budget(qwen(), Sharding.NO_SHARD, EIGHT, 2**30) == 0


def test_adapters_and_offloading_take_the_optimizer_off_the_device() -> None:
    everything = fixed_bytes(qwen(), Sharding.NO_SHARD, EIGHT)
    adapters = replace(EIGHT, num_trained=10_000_000)
    assert everything - fixed_bytes(qwen(), Sharding.NO_SHARD, adapters) == 12 * COUNT - 160_000_000
    offloaded = replace(EIGHT, cpu_offload_params=True)
    assert everything - fixed_bytes(qwen(), Sharding.NO_SHARD, offloaded) == 16 * COUNT
    assert fixed_bytes(qwen(), Sharding.NO_SHARD, replace(offloaded, on_gpu=False)) > 16 * COUNT


def test_checkpoints_are_fp32_weights_and_the_moments_of_what_is_trained() -> None:
    assert model_bytes(qwen()) == 4 * COUNT
    assert state_bytes(qwen(), EIGHT) == 12 * COUNT
    assert state_bytes(qwen(), replace(EIGHT, num_trained=1000)) == 4 * COUNT + 8000
