"""What a plan says of the parameters that train, and the memory of those and of each optimizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import ModelArtifact
from sft.config.schema import (
    BaseQuantization,
    LoraConfig,
    Optimizer,
    ParameterGroupConfig,
    RunConfig,
    ShardingStrategy,
    TrainingConfig,
)
from sft.planning import stage_settings
from sft.planning.environment import Environment
from sft.planning.memory import moments, peak_bytes, state_bytes
from sft.planning.model_shape import shape_of
from sft.planning.trained_parameters import moment_bytes, num_frozen, parameter_sizes, trained_lines
from tests.unit.planning.test_memory import COUNT, EIGHT, QWEN

SIZES = {"model.embed_tokens.weight": 100, "model.layers.0.a.weight": 30, "model.layers.1.a.weight": 30}


@pytest.fixture
def tied(tiny_model: ModelArtifact) -> dict[str, Any]:
    return {"model": tiny_model}


def lines(have: dict[str, Any], **training: Any) -> list[str]:
    return list(trained_lines(RunConfig(training=TrainingConfig(**training)), have))


@pytest.mark.slow
def test_a_plan_says_how_many_parameters_train_and_that_a_tied_head_is_the_embeddings(tied: dict[str, Any]) -> None:
    sizes = parameter_sizes(RunConfig(), tied)
    assert sizes is not None
    total, ends = sum(sizes.values()), sizes["model.embed_tokens.weight"]
    first, *rest = lines(tied, freeze=["lm_head"])
    assert first == f"trains     {total - ends:,} of {total:,} parameters"
    assert rest[0] == f"           training.freeze: lm_head: {ends:,} frozen"
    assert "the head is the embeddings" in rest[1]
    [warning] = lines(tied, freeze=["layers.90-95"])
    assert warning.startswith("warning    training.freeze: layers.90-95 goes past")
    groups = {"a": ParameterGroupConfig(match="embeddings", learning_rate=1e-5)}
    assert lines(tied, parameter_groups=groups)[-1].endswith(f"{ends:,} with learning_rate=1e-05")
    assert lines(tied) == []


@pytest.mark.slow
def test_a_plan_says_what_adapters_train_and_what_has_none(tied: dict[str, Any]) -> None:
    config = json.loads((tied["model"].model_dir / "config.json").read_text())
    shape = shape_of(config)
    assert shape is not None
    lora = LoraConfig(rank=4, target_modules=["q_proj", "down_proj"], layers=[0])
    trained = 4 * (2 * shape.hidden_size + shape.query_width - shape.hidden_size + shape.ffn_width + shape.hidden_size)
    assert lines(tied, lora=lora) == [
        f"trains     {trained:,} of {shape.num_parameters + trained:,} parameters, in adapters of 2 matrices "
        "(down_proj, q_proj)",
        "           not adapted: gate_proj, k_proj, o_proj, up_proj, v_proj, embeddings, head, norms; "
        f"{shape.num_layers - 1} of {shape.num_layers} layers",
    ]
    whole = lines(tied, lora=LoraConfig(rank=4, modules_to_save=["norm"]))
    assert whole[1] == f"           {shape.hidden_size} of them are norm, trained whole"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"target_modules": ["wrong"]}, "target_modules: the model has no wrong to adapt; try choose from down_proj"),
        ({"layers": [99]}, "layers: the model has no layer 99"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: lm_head shares its weights"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save: model.embed_tokens shares its weights"),
    ],
)
def test_a_plan_warns_of_adapters_that_the_ranks_will_refuse(
    lora: dict[str, Any], said: str, tied: dict[str, Any]
) -> None:
    [warning] = lines(tied, lora=LoraConfig(rank=4, **lora))
    assert warning.startswith(f"warning    training.lora.{said}")


def test_adapters_of_an_architecture_that_is_not_known_are_said_by_the_ranks(tmp_path: Path) -> None:
    cfg = RunConfig(training=TrainingConfig(lora=LoraConfig(rank=4)))
    cfg.model.name_or_path = str(tmp_path)
    assert list(trained_lines(cfg, {})) == ["trains     known once the model is here: training.lora"]
    (tmp_path / "config.json").write_text('{"model_type": "olmo2"}')
    [line] = trained_lines(cfg, {})
    assert line.startswith("trains     known once the ranks have made the adapters")


def test_the_key_of_a_full_training_has_none_of_the_newer_settings_of_adapters() -> None:
    full, adapters = RunConfig(), RunConfig(training=TrainingConfig(lora=LoraConfig(rank=4, use_dora=True)))
    own = stage_settings.train(full, Environment(versions={}))["lora"]
    assert own == {"rank": 0, "alpha": 32, "dropout": 0.1, "target_modules": None}
    adapters.model.name_or_path = "org/base"
    of_adapters = stage_settings.train(adapters, Environment(versions={}))["lora"]
    newer = {"use_dora": True, "adapted_model": "org/base"}
    assert of_adapters == own | {"rank": 4, "target_modules": "all-linear"} | newer


def test_a_model_that_is_not_here_is_not_guessed(tmp_path: Path) -> None:
    cfg = RunConfig(training=TrainingConfig(freeze=["lm_head"]))
    cfg.model.name_or_path = str(tmp_path)
    assert list(trained_lines(cfg, {})) == [
        "trains     known once the model is here: training.freeze, training.parameter_groups"
    ]


def test_what_freezes_is_counted_once() -> None:
    groups = {"a": ParameterGroupConfig(match="layers.0", freeze=True)}
    assert num_frozen(TrainingConfig(freeze=["layers.0-1", "*layers.1*"], parameter_groups=groups), SIZES) == 60


def test_a_frozen_weight_has_neither_gradient_nor_state_and_waits_as_it_is_stored() -> None:
    shape = shape_of(QWEN)
    assert shape is not None
    frozen = replace(EIGHT, num_frozen=400_000_000)
    whole, less = (moments(shape, ShardingStrategy.NO_SHARD, setup)["layer"].fixed for setup in (EIGHT, frozen))
    assert whole - less == 400_000_000 * (16 - shape.stored_bytes)
    assert state_bytes(shape, frozen) == 12 * (COUNT - 400_000_000)


@pytest.mark.parametrize(
    ("optimizer", "low", "high"),
    [(Optimizer.adamw, 8, 8), (Optimizer.lion, 4, 4), (Optimizer.adafactor, 0, 0.01), (Optimizer.muon, 4, 5)],
)
def test_an_optimizer_takes_its_own_state(optimizer: Optimizer, low: float, high: float) -> None:
    shape = shape_of(QWEN)
    assert shape is not None
    of_weight = moment_bytes(TrainingConfig(optimizer=optimizer), shape)
    assert low <= of_weight <= high
    setup = replace(EIGHT, moment_bytes=of_weight)
    assert state_bytes(shape, setup) == int((4 + of_weight) * COUNT)
    saved = peak_bytes(shape, ShardingStrategy.NO_SHARD, EIGHT) - peak_bytes(shape, ShardingStrategy.NO_SHARD, setup)
    assert saved == pytest.approx((8 - of_weight) * COUNT, rel=0.01)


def test_a_base_in_4_bits_is_said_and_has_a_key_with_the_version_that_makes_it(tied: dict[str, Any]) -> None:
    lora = LoraConfig(rank=4, quantize=BaseQuantization.nf4)
    [said] = [line for line in lines(tied, lora=lora) if line.startswith("base")]
    assert "in 4 bits (nf4): 14 matrices, " in said
    assert said.endswith(" GiB, whole on each rank; the saved model has the unquantised weights")
    assert not [line for line in lines(tied, lora=LoraConfig(rank=4)) if line.startswith("base")]
    world = Environment(versions={"bitsandbytes": "0.50.2"})
    own = stage_settings.train(RunConfig(training=TrainingConfig(lora=lora)), world)["lora"]
    assert (own["quantize"], own["bitsandbytes"]) == ("nf4", "0.50.2")
    for other in (LoraConfig(rank=4), LoraConfig(quantize=BaseQuantization.nf4)):
        untouched = stage_settings.train(RunConfig(training=TrainingConfig(lora=other)), world)["lora"]
        assert not {"quantize", "bitsandbytes"} & untouched.keys()
