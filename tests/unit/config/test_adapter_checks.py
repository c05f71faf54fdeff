"""Rules between the settings of adapters."""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.adapter_checks import check_adapters, trains_embeddings
from sft.config.schema import BaseQuantization, Compile, FsdpConfig, LoraConfig, LoraInit, TrainingConfig


@pytest.mark.parametrize(
    ("lora", "settings", "told"),
    [
        ({"target_modules": []}, {}, "training.lora.target_modules=[]: must name a layer"),
        ({"layers": []}, {}, "training.lora.layers=[]: must name a layer"),
        ({"rank": 3, "init": LoraInit.orthogonal}, {}, "training.lora.init=orthogonal: needs an even rank, not 3"),
        (
            {"rank": 4, "alpha_pattern": {"mlp.down_proj": 64, "down_proj": 16, "q_proj": 8}},
            {},
            "training.lora.alpha_pattern.down_proj=16: mlp.down_proj is named by down_proj too",
        ),
        ({"rank": 4, "use_dora": True}, {"compile": Compile.regional}, "training.lora.use_dora=true: is not compiled"),
        (
            {"rank": 4, "quantize": BaseQuantization.nf4},
            {"fsdp": FsdpConfig(version=1)},
            "training.lora.quantize=nf4: needs FSDP2",
        ),
        (
            {"rank": 4, "quantize": BaseQuantization.nf4_double_quant},
            {"compile": Compile.regional},
            "training.lora.quantize=nf4_double_quant: is not compiled",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(lora: dict[str, Any], settings: dict[str, Any], told: str) -> None:
    [problem] = check_adapters(TrainingConfig(lora=LoraConfig(**lora), **settings))
    assert str(problem).startswith(told)
    assert problem.suggestion


def test_the_rest_is_allowed() -> None:
    for lora in ({"rank": 4, "init": LoraInit.orthogonal}, {"use_dora": True}, {"init": LoraInit.orthogonal}):
        assert (
            not [*check_adapters(TrainingConfig(lora=LoraConfig(**lora), compile=Compile.regional))] or "rank" in lora
        )


def test_embeddings_are_trained_beside_adapters_if_the_head_is_too() -> None:
    assert trains_embeddings(LoraConfig(modules_to_save=["model.embed_tokens", "lm_head"]))
    assert not trains_embeddings(LoraConfig(modules_to_save=["embed_tokens"]))
