"""What ``training.gradient_checkpointing: auto`` becomes: by the model and all memory, not by the moment."""

from __future__ import annotations

from typing import Any

import pytest

from sft.adapters.os import machine
from sft.config.compose import compose, find_recipe
from sft.config.schema import GradientCheckpointing
from sft.planning.recomputation import choose_recomputation
from sft.planning.resources import Resources, resolve_resources, resources_of

GIB = 2**30
SHAPE = (
    *("model.scratch.hidden_size=1536", "model.scratch.intermediate_size=8960", "model.scratch.num_hidden_layers=28"),
    *("model.scratch.num_attention_heads=12", "model.scratch.num_key_value_heads=2", "model.scratch.vocab_size=151936"),
    "training.gradient_checkpointing=auto",
)
"""Of Qwen2.5-1.5B: 37 GiB on one GPU where nothing is recomputed, 32 with every second layer, 27 with each."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    def of(total: int) -> None:
        monkeypatch.setattr(machine, "gpus", lambda: ("NVIDIA H100",))
        monkeypatch.setattr(machine, "compute_capability", lambda: (9, 0))
        monkeypatch.setattr(machine, "gpu_total_bytes", lambda: total)
        monkeypatch.setattr(machine, "gpu_bytes", lambda: 0)  # what is free now decides nothing

    return of


def chosen(*overrides: str) -> Resources:
    return resources_of(compose(find_recipe("quickstart"), (*SHAPE, *overrides)))


@pytest.mark.parametrize(("gib", "mode"), [(80, "none"), (40, "selective"), (36, "full"), (24, "full"), (0, "full")])
def test_auto_is_the_cheapest_that_fits_into_a_gpus_memory(gib: int, mode: str, gpu: Any) -> None:
    gpu(gib * GIB)
    found = chosen()
    assert found.gradient_checkpointing.value == mode
    assert found.explained()["gradient_checkpointing"]["value"] == mode
    assert ("GiB" in found.reasons["gradient_checkpointing"]) == (gib > 0)


def test_on_a_cpu_it_is_a_ranks_share_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ())
    monkeypatch.setattr(machine, "host_total_bytes", lambda: 512 * GIB)
    fp32 = ("training.precision=fp32", "training.launcher.procs_per_worker=1")
    assert chosen(*fp32).gradient_checkpointing is GradientCheckpointing.none
    monkeypatch.setattr(machine, "host_total_bytes", lambda: 40 * GIB)
    assert chosen(*fp32).gradient_checkpointing is GradientCheckpointing.full


def test_what_the_recipe_says_is_not_asked_about(gpu: Any) -> None:
    gpu(141 * GIB)
    assert chosen("training.gradient_checkpointing=full").gradient_checkpointing is GradientCheckpointing.full
    assert "gradient_checkpointing" not in chosen("training.gradient_checkpointing=full").reasons


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            (
                "training/launcher=kubeflow",
                "training.launcher.procs_per_worker=null",
            ),
            "cluster",
        ),
        (("training.launcher.num_workers=2", "training.launcher.rendezvous=a:1"), "several machines must agree"),
    ],
)
def test_where_the_memory_is_not_known_everything_is_recomputed(
    overrides: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ())
    monkeypatch.setenv("PET_NODE_RANK", "0")
    cfg = compose(find_recipe("quickstart"), (*SHAPE, *overrides))
    mode, why = choose_recomputation(cfg, resolve_resources(cfg.training))
    assert mode is GradientCheckpointing.full
    assert reason in why
