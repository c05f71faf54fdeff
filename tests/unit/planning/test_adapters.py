"""What adapters train of a model by its shape alone: the same as transformers' and peft's own count."""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.schema import BaseQuantization, LoraConfig
from sft.planning.adapters import (
    Quantized,
    adapted_by,
    kept_by,
    matrices_of,
    nf4_bytes,
    num_active_parameters,
    num_adapter_parameters,
    num_saved_whole,
    plain,
    quantized_by,
)
from sft.planning.model_shape import FAMILIES, Shape, shape_of
from tests.support.architectures import ATTENTION_ONLY, tiny

CONFIG = {
    **{"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128},
}
MOE = {**CONFIG, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}


def shape(config: dict[str, Any] = CONFIG) -> Shape:
    found = shape_of(config)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_and_parameters_are_those_of_the_model_itself(family: str) -> None:
    from sft.adapters.instructlab.rank import adapted

    assert family in ATTENTION_ONLY
    every_head = {"num_key_value_heads": 4} if family == "gpt_neox" else {}  # which reads no other number of them
    model = tiny(family, **every_head)
    found = shape(model.config.to_dict())
    assert matrices_of(found) == adapted.matrices_of(model)
    for lora in (LoraConfig(rank=4, dropout=0), LoraConfig(rank=2, dropout=0, layers=[1], rank_pattern={"o_proj": 8})):
        if family in {"gpt_neox"} and lora.rank_pattern:
            continue
        made = adapted.with_adapters(tiny(family, **every_head), plain(lora), adapted_model="base")
        assert adapted.facts(made)["num_trained"] == num_adapter_parameters(lora, found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_with_dora_and_whole_modules_the_count_is_that_of_what_trains() -> None:
    from sft.adapters.instructlab.rank import adapted

    lora = LoraConfig(rank=4, use_dora=True, modules_to_save=["lm_head", "norm"])
    model = tiny("llama")
    sizes = {name: each.numel() for name, each in model.named_parameters()}
    found = shape(model.config.to_dict())
    counted = num_adapter_parameters(lora, found) + num_saved_whole(lora, found, sizes)
    assert adapted.facts(adapted.with_adapters(model, plain(lora), adapted_model=""))["num_trained"] == counted
    known = num_saved_whole(lora, found, None)  # before the files are here
    assert num_saved_whole(lora, found, sizes) - known == model.config.hidden_size


def test_full_training_has_no_adapters() -> None:
    assert num_adapter_parameters(LoraConfig(), shape()) == 0
    assert num_saved_whole(LoraConfig(modules_to_save=["lm_head"]), shape(), None) == 0


def test_a_token_goes_through_the_adapters_of_its_experts_alone() -> None:
    lora = LoraConfig(rank=2, target_modules=["experts.down_proj"])
    assert num_adapter_parameters(lora, shape(MOE)) == 3 * 2 * 8 * (96 + 64)
    assert num_active_parameters(lora, shape(MOE)) == 3 * 2 * 2 * (96 + 64)
    assert len(adapted_by(lora, shape(MOE))) == 3


def test_what_is_kept_follows_what_is_adapted() -> None:
    every = kept_by(LoraConfig(rank=1), shape())
    assert (every.inputs, every.shared) == (3 * (5 * 64 + 64 + 96), 3 * (2 * 64 + 96))
    assert (every.outputs, every.largest, every.expert_weights) == (0, 0, 0)
    one = kept_by(LoraConfig(rank=1, target_modules=["v_proj"], layers=[2], use_dora=True), shape())
    assert (one.inputs, one.shared, one.outputs, one.largest) == (64, 64, 32, 64 * 32)
    experts = kept_by(LoraConfig(rank=1), shape(MOE))
    assert experts.expert_weights == 3 * 8 * (64 * 2 * 96 + 96 * 64)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [BaseQuantization.nf4, BaseQuantization.nf4_double_quant])
def test_a_base_in_4_bits_has_the_bytes_that_the_ranks_count(kind: BaseQuantization) -> None:
    from sft.adapters.instructlab.rank import adapted

    lora = LoraConfig(rank=4, dropout=0, quantize=kind, target_modules=["q_proj"], modules_to_save=["k_proj"])
    model = tiny("llama")
    base = quantized_by(lora, shape(model.config.to_dict()))
    counted = adapted.facts(adapted.with_adapters(model, plain(lora), adapted_model=""))
    assert (base.num_matrices, base.num_bytes) == (counted["num_quantized"], counted["quantized_bytes"])
    assert base.num_weights == 2 * (2 * 32 * 32 + 32 * 16 + 3 * 32 * 48)
    assert base.largest == 32 * 48


def test_a_weight_takes_4_bits_and_its_part_of_a_scale() -> None:
    """4 + 32/64 bits, and with scales in 8 bits 4 + 8/64 + 32/(64 * 256) (arXiv:2305.14314, section 3)."""
    num = 1 << 26
    assert nf4_bytes(num, double_quant=False) * 8 / num == 4.5
    assert nf4_bytes(num, double_quant=True) * 8 / num == pytest.approx(4.127, abs=5e-4)
    assert quantized_by(LoraConfig(quantize=BaseQuantization.nf4), shape()) == Quantized()  # no adapters
    assert quantized_by(LoraConfig(rank=1), shape()) == Quantized()
