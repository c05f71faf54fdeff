"""What the full states of a training are known by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sft.planning.plan import Step
from sft.planning.state_id import state_id

RESOURCES = {"num_processes": 2, "num_nodes": 1, "strategy": "FULL_SHARD", "precision": "fp32", "device": "cpu"}
DIGESTS = {"model": "m", "tokenize": "t"}
STEP = Step(
    name="train",
    stage="train",
    needs=("model", "tokenize"),
    settings={"learning_rate": 1e-3, "revision": 1, "resources": RESOURCES},
)


def changed(**resources: Any) -> Step:
    return replace(STEP, settings={**STEP.settings, "resources": RESOURCES | resources})


def test_ranks_nodes_sharding_and_device_are_left_out_although_the_key_has_them() -> None:
    other = changed(num_processes=1, num_nodes=4, strategy="NO_SHARD", device="another")
    assert other.key(DIGESTS) != STEP.key(DIGESTS)
    assert state_id(other, DIGESTS) == state_id(STEP, DIGESTS)


def test_arithmetic_settings_code_and_inputs_count() -> None:
    own = state_id(STEP, DIGESTS)
    rate = replace(STEP, settings={**STEP.settings, "learning_rate": 2e-3})
    revised = replace(STEP, settings={**STEP.settings, "revision": 2})
    assert len({own, *(state_id(step, DIGESTS) for step in (changed(precision="bf16"), rate, revised))}) == 4
    assert state_id(STEP, {**DIGESTS, "tokenize": "other"}) != own
