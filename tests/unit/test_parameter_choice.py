"""What a pattern of a recipe means, by the names of a model's parameters."""

from __future__ import annotations

import pytest

from sft.parameter_choice import matching, missing_layers, pattern_problem

NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1, 2, 10, 11)),
    "model.norm.weight",
    "lm_head.weight",
]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("embeddings", ["model.embed_tokens.weight"]),
        ("lm_head", ["lm_head.weight"]),
        ("layers.1", ["model.layers.1.mlp.up_proj.weight"]),
        ("layers.2-10", ["model.layers.2.mlp.up_proj.weight", "model.layers.10.mlp.up_proj.weight"]),
        ("*.1.*", ["model.layers.1.mlp.up_proj.weight"]),
        ("model.norm.weight", ["model.norm.weight"]),
        ("norm.weight", []),
        ("layers.3-9", []),
    ],
)
def test_a_pattern_means_whole_names_and_layers_by_number(pattern: str, expected: list[str]) -> None:
    assert matching(pattern, NAMES) == set(expected)


@pytest.mark.parametrize("name", ["transformer.h.3.attn.c_attn.weight", "gpt_neox.layers.3.attention.dense.bias"])
def test_layers_are_found_under_other_architectures_names(name: str) -> None:
    assert matching("layers.3", [name]) == {name}


def test_many_stars_take_no_time() -> None:
    assert matching("*a" * 60 + "b", ["a" * 5_000]) == set()


def test_a_pattern_that_can_mean_nothing_is_told() -> None:
    assert pattern_problem("layers.0-11") is None
    assert pattern_problem("model.norm.weight") is None
    assert pattern_problem("layers.2-1") == "must name the lower layer first"
    assert "must be embeddings" in (pattern_problem("norms") or "")


def test_layers_that_the_model_has_not_are_told() -> None:
    assert missing_layers(["layers.0-11", "embeddings"], {"a": {"match": "layers.2"}}, NAMES) is None
    last = "goes past the model's last layer, layers.11"
    assert missing_layers(["layers.10-12"], {}, NAMES) == f"training.freeze: layers.10-12 {last}"
    of_group = missing_layers([], {"a": {"match": "layers.12"}}, NAMES)
    assert of_group == f"training.parameter_groups.a.match: layers.12 {last}"
