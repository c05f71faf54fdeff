"""Which matrices of a model get adapters, by their names alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sft.adapter_choice import Adapter, Matrix, adapters_of, matches, num_parameters, problem, saved_whole
from sft.config.schema import BaseQuantization, LoraConfig

MATRICES = {
    f"model.layers.{layer}.{name}": Matrix(inputs=8, outputs=4)
    for layer in (0, 1)
    for name in ("self_attn.q_proj", "mlp.up_proj")
} | {"model.layers.1.mlp.experts.down_proj": Matrix(inputs=8, outputs=4, experts=3)}
MODULES = {*MATRICES, "model.embed_tokens", "model.norm", "model.layers.0.input_layernorm", "lm_head"}


def lora(**settings: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(LoraConfig(**{"rank": 4, "alpha": 8, "dropout": 0.0, **settings}))
    return plain


def test_an_ending_is_made_of_whole_parts() -> None:
    assert matches("a.q_proj", "q_proj")
    assert matches("a.q_proj", "a.q_proj")
    assert not matches("a.q_proj", "proj")
    assert not matches("a.input_layernorm", "norm")


def test_null_adapts_every_matrix() -> None:
    assert adapters_of(lora(), MATRICES) == dict.fromkeys(MATRICES, Adapter(4, 8.0))


def test_names_layers_and_patterns_choose() -> None:
    chosen = lora(
        target_modules=["q_proj", "up_proj"], layers=[1], rank_pattern={"layers.1.mlp.up_proj": 2, "v_proj": 16}
    )
    assert adapters_of(chosen, MATRICES) == {
        "model.layers.1.self_attn.q_proj": Adapter(4, 8.0),
        "model.layers.1.mlp.up_proj": Adapter(2, 8.0),
    }
    by_alpha = adapters_of(lora(alpha_pattern={"q_proj": 3}, target_modules=["q_proj"], layers=[0]), MATRICES)
    assert by_alpha == {"model.layers.0.self_attn.q_proj": Adapter(4, 3.0)}


def test_parameters_are_two_matrices_each_and_of_each_expert_and_a_magnitude_with_dora() -> None:
    assert num_parameters(lora(), MATRICES) == (4 + 3) * 4 * (8 + 4)
    assert num_parameters(lora(use_dora=True, target_modules=["q_proj"]), MATRICES) == 2 * (4 * (8 + 4) + 4)


def test_modules_are_trained_whole_by_the_ends_of_their_names() -> None:
    assert saved_whole(lora(modules_to_save=["norm", "lm_head"]), MODULES) == {"model.norm", "lm_head"}


@pytest.mark.parametrize(
    ("settings", "how", "said"),
    [
        ({}, {"fsdp_version": 1}, "of which FSDP1 has a view"),
        ({}, {"compiles": True}, "can't be compiled"),
        ({"quantize": BaseQuantization.nf4, "target_modules": ["q_proj"]}, {}, "experts (down_proj) are no linear"),
        ({"target_modules": ["q_proj"], "layers": [5]}, {}, "no layer 5; its last one is 1"),
        ({"target_modules": ["experts.down_proj"], "layers": [0]}, {}, "no layer is left to adapt"),
        ({"modules_to_save": ["up_proj"]}, {}, "mlp.up_proj is adapted already"),
        ({"modules_to_save": ["lm_head"]}, {"tied": {"lm_head"}}, "shares its weights"),
        ({"modules_to_save": ["wte"]}, {}, "modules_to_save: the model has no wte"),
    ],
)
def test_what_a_model_can_not_is_told_with_what_to_do(settings: dict[str, Any], how: dict[str, Any], said: str) -> None:
    found = problem(lora(**settings), MATRICES, MODULES, **how)
    assert found is not None
    assert said in found[0]
    assert found[1]


def test_layers_alone_are_for_either_fsdp_and_to_be_compiled() -> None:
    assert problem(lora(target_modules=["q_proj"]), MATRICES, MODULES, fsdp_version=1, compiles=True) is None
    assert problem(lora(modules_to_save=["wte"]), MATRICES, None) is None  # not known yet
