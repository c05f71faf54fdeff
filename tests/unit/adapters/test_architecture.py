"""A checkpoint against its architecture, by transformers' own loader on the meta device."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.architecture import check_tied, differences, load_on_meta, tensors_read_as, unread
from sft.adapters.checkpoint_files import read_tensors
from sft.artifacts import ModelArtifact
from sft.errors import StageError
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


def with_head(base: Path, head: Callable[[Any], Any]) -> tuple[Any, dict[str, str]]:
    with_weights(base, lambda weights: {**weights, "lm_head.weight": head(weights["model.embed_tokens.weight"])})
    tensors = read_tensors(base)
    model, _ = load_on_meta(base, tensors, trust_remote_code=False)
    return model, tensors_read_as(model, tensors)


def test_a_head_that_the_config_ties_and_that_is_stored_with_other_values_is_refused(base: Path) -> None:
    import numpy

    model, read_as = with_head(base, lambda embedding: numpy.roll(embedding, 1, 0))
    with pytest.raises(StageError, match=r"ties lm_head\.weight to model\.embed_tokens\.weight") as caught:
        check_tied(base, model, read_as)
    assert "tie_word_embeddings to false" in str(caught.value.fix)


def test_a_tied_head_of_the_embeddings_values_or_one_that_is_said_to_be_its_own_is_taken(base: Path) -> None:
    check_tied(base, *with_head(base, lambda embedding: embedding.copy()))
    with_config(base, tie_word_embeddings=False)
    check_tied(base, *with_head(base, lambda embedding: embedding * 2))


@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen3_moe", "gpt_neox"])
def test_what_transformers_saved_is_read_whole(family: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SHAPE, **FAMILIES[family])).save_pretrained(
        tmp_path
    )
    tensors = read_tensors(tmp_path)
    model, _ = load_on_meta(tmp_path, tensors, trust_remote_code=False)
    assert unread(model, tensors_read_as(model, tensors)) == ""


def test_weights_that_transformers_ignores_by_a_pattern_are_named_and_computed_buffers_are_not(tmp_path: Path) -> None:
    import numpy
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {**MOE, "moe_intermediate_size": 16, "n_shared_experts": 1, "first_k_dense_replace": 1}
    config = AutoConfig.for_model("glm4_moe", **SHAPE, **sizes, num_nextn_predict_layers=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    further = dict.fromkeys(
        ("model.layers.92.eh_proj.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"), numpy.zeros(4, "float32")
    )
    with_weights(tmp_path, lambda weights: {**weights, **further})
    tensors = read_tensors(tmp_path)
    model, report = load_on_meta(tmp_path, tensors, trust_remote_code=False)
    assert not report["unexpected_keys"]
    assert unread(model, tensors_read_as(model, tensors)) == (
        "1 stored weights are not read by Glm4MoeForCausalLM, nor saved with a model of it: "
        "model.layers.92.eh_proj.weight; config.json goes on to say num_nextn_predict_layers=1"
    )
