"""A checkpoint against its architecture, by transformers' own loader on the meta device."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.architecture import differences, load_on_meta
from sft.adapters.checkpoint_files import read_tensors
from sft.artifacts import ModelArtifact
from tests.support import architectures

pytestmark = [
    pytest.mark.slow,
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SHAPE: dict[str, Any] = {**architectures.SHAPE, "vocab_size": 64}
MOE = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "qk_nope_head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    **{
        name: {} for name in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "granite")
    },
    **{name: {} for name in ("granite", "smollm3", "gpt_neox", "olmo2", "starcoder2", "cohere", "stablelm", "lfm2")},
    **dict.fromkeys(("mixtral", "qwen3_moe", "granitemoe", "gpt_oss", "llama4_text"), MOE),
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 16, "moe_intermediate_size": 16},
    "deepseek_v3": {**MOE, **MLA, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16},
}


def compared(folder: Path) -> list[str]:
    tensors = read_tensors(folder)
    model, report = load_on_meta(folder, tensors, trust_remote_code=False)
    return list(differences(report, tensors, model.config.get_text_config().num_hidden_layers))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saved_is_what_it_expects_renamed_and_converted_weights_included(
    family: str, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **SHAPE, **FAMILIES[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert compared(tmp_path) == []


@pytest.mark.exhaustive
def test_a_real_model_is_what_it_should_be(smollm2: Path) -> None:
    assert compared(smollm2) == []


def with_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from safetensors.numpy import load_file, save_file

    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def with_config(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **settings}), encoding="utf-8")


@pytest.fixture
def base(tiny_model: ModelArtifact, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model.model_dir, tmp_path / "base")


def test_a_model_from_scratch_is_what_it_should_be(base: Path) -> None:
    assert compared(base) == []


def test_a_missing_tensor_is_named(base: Path) -> None:
    with_weights(base, lambda weights: {k: v for k, v in weights.items() if k != "model.norm.weight"})
    assert compared(base) == ["1 missing, which would be random: model.norm.weight"]


def test_an_unexpected_tensor_is_named(base: Path) -> None:
    with_weights(base, lambda weights: {**weights, "model.extra.weight": weights["model.norm.weight"]})
    assert compared(base) == ["1 unexpected, which would be dropped: model.extra.weight"]


def test_a_tensor_of_another_shape_is_named_with_both(base: Path) -> None:
    with_config(base, vocab_size=500)
    assert compared(base) == ["model.embed_tokens.weight has shape [308, 32], config.json means [500, 32]"]


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_the_prefix_of_a_wrapped_model_is_named_with_its_mend(prefix: str, base: Path) -> None:
    with_weights(base, lambda weights: {prefix + name: value for name, value in weights.items()})
    [problem] = compared(base)
    assert problem.startswith(f"26 names begin with {prefix}, of ")
    assert "; save model." in problem


def test_fewer_layers_in_the_config_than_in_the_weights_are_named(base: Path) -> None:
    with_config(base, num_hidden_layers=1)
    first, second = compared(base)
    assert first == "config.json says num_hidden_layers=1, the weights have 2: set it to theirs"
    assert second.startswith("12 unexpected, which would be dropped: model.layers.1.")


def test_a_hole_in_the_layers_is_named(base: Path) -> None:
    with_weights(base, lambda weights: {k: v for k, v in weights.items() if "layers.0." not in k})
    assert compared(base)[0].startswith("config.json says num_hidden_layers=2, the weights have only layers 1")


def test_a_head_that_is_not_there_has_its_mend(base: Path) -> None:
    with_config(base, tie_word_embeddings=False)
    assert compared(base) == [
        "1 missing, which would be random: lm_head.weight; set tie_word_embeddings to true if the head is the embedding"
    ]


def test_a_tied_head_that_is_stored_too_and_buffers_of_old_checkpoints_are_no_difference(base: Path) -> None:
    def added(weights: dict[str, Any]) -> dict[str, Any]:
        old = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": weights["model.norm.weight"][:4] for n in (0, 1)}
        return {**weights, **old, "lm_head.weight": weights["model.embed_tokens.weight"].copy()}

    with_weights(base, added)
    assert compared(base) == []
