"""Settings of loss, optimizer, freezing and groups that contradict each other, and those that an optimizer ignores."""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.optimization_checks import check_optimization, unread_optimization
from sft.config.schema import (
    FsdpConfig,
    LoraConfig,
    Loss,
    Optimizer,
    ParameterGroupConfig,
    TrainingConfig,
    WeightDecayOn,
)


def problems(**settings: Any) -> list[str]:
    return [str(problem) for problem in check_optimization(TrainingConfig(**settings))]


def group(**settings: Any) -> dict[str, ParameterGroupConfig]:
    return {"mine": ParameterGroupConfig(**settings)}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"loss": Loss.dft, "label_smoothing": 0.1}, "training.label_smoothing=0.1"),
        ({"optimizer": Optimizer.adamw_8bit}, "training.optimizer=adamw_8bit: is not there yet"),
        ({"optimizer": Optimizer.muon, "fsdp": FsdpConfig(cpu_offload_params=True)}, "training.optimizer=muon"),
        ({"optimizer": Optimizer.lion, "fsdp": FsdpConfig(version=1)}, "training.optimizer=lion: needs FSDP2"),
        ({"freeze": ["lm_head"], "fsdp": FsdpConfig(version=1)}, "training.freeze=['lm_head']: needs FSDP2"),
        (
            {"parameter_groups": group(match="a.b", weight_decay=0.0), "fsdp": FsdpConfig(version=1)},
            "training.parameter_groups=['mine']: needs FSDP2",
        ),
        ({"weight_decay": 0.1, "fsdp": FsdpConfig(version=1)}, "training.weight_decay_on=matrices: needs FSDP2"),
        ({"freeze": ["lm_head"], "lora": LoraConfig(rank=4)}, "training.freeze=['lm_head']: is not read with adapters"),
        ({"freeze": ["layers.5-3"]}, "training.freeze=layers.5-3: must name the lower layer first"),
        ({"freeze": ["everything"]}, "training.freeze=everything: must be embeddings, lm_head"),
        ({"parameter_groups": group(match="a.b")}, "training.parameter_groups.mine.match=a.b: must say what"),
        (
            {"parameter_groups": group(match="a.b", freeze=True, learning_rate=1.0)},
            "training.parameter_groups.mine.freeze=true",
        ),
        (
            {"parameter_groups": group(match="a.b", freeze=True), "lora": LoraConfig(rank=4)},
            "training.parameter_groups.mine.freeze=true: is not read with adapters",
        ),
    ],
)
def test_what_can_not_be_together_is_refused_under_its_key(settings: dict[str, Any], key: str) -> None:
    [problem] = problems(**settings)
    assert problem.startswith(key)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": Loss.dft, "z_loss": 1e-4},
        {"freeze": ["embeddings", "layers.0-11", "layers.3", "model.norm.weight", "*mlp*"], "weight_decay": 0.1},
        {"parameter_groups": group(match="*lora_B*", learning_rate=1e-3), "lora": LoraConfig(rank=4)},
        {"weight_decay": 0.1, "weight_decay_on": WeightDecayOn.all, "fsdp": FsdpConfig(version=1)},
    ],
)
def test_what_can_be_together_is_not(settings: dict[str, Any]) -> None:
    assert problems(**settings) == []


def test_what_an_optimizer_does_not_read_is_told() -> None:
    told = list(unread_optimization(TrainingConfig(optimizer=Optimizer.adafactor, beta1=0.8)))
    assert told == ["training.beta1=0.8: not read with optimizer=adafactor, but by adamw, lion, muon"]
    told = list(unread_optimization(TrainingConfig(weight_decay_on=WeightDecayOn.all)))
    assert told == ["training.weight_decay_on=all: not read with training.weight_decay=0"]
    assert list(unread_optimization(TrainingConfig(weight_decay_on=WeightDecayOn.all, weight_decay=0.1))) == []
