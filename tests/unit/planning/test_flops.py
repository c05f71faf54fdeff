"""The operations of a step by our formula, against those that torch counts while it computes one."""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.schema import LoraConfig
from sft.planning.flops import ModelFlops, attention_cost, model_flops
from sft.planning.model_shape import Shape, shape_of

QWEN = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "head_dim": 16,
}
EXPERTS = {"num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def shape(config: dict[str, Any]) -> Shape:
    found = shape_of(config)
    assert found is not None
    return found


def test_the_parts_of_a_real_shape() -> None:
    per_layer = 1536 * (1536 + 256 + 256) + 1536 * 1536 + 3 * 1536 * 8960
    assert model_flops(shape(QWEN)) == ModelFlops(
        per_token=6 * 28 * per_layer, per_loss_token=6 * 151_936 * 1536, per_square=6 * 28 * 1536
    )
    adapters = 18_464_768  # peft's print_trainable_parameters(), all linear layers
    with_lora = model_flops(shape(QWEN), LoraConfig(rank=16))
    assert with_lora.per_token == 4 * 28 * per_layer + 6 * adapters
    assert with_lora.per_loss_token == 4 * 151_936 * 1536


def test_of_experts_those_count_that_a_token_is_sent_to() -> None:
    config = {**SIZES, **EXPERTS, "model_type": "qwen3_moe"}
    attention = 64 * (64 + 32 + 32) + 64 * 64
    assert model_flops(shape(config)).per_token == 6 * 3 * (attention + 2 * 3 * 64 * 32 + 8 * 64)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lora_rank", [0, 8])
@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt_neox", "gemma2", "phi3"])
def test_torch_counts_as_many(architecture: str, lora_rank: int) -> None:
    import peft
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    special = {"pad_token_id": 0} if architecture == "phi3" else {}
    sizes = SIZES if architecture != "gpt_neox" else {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
    config = AutoConfig.for_model(architecture, **sizes, **special)
    config._attn_implementation = "eager"  # whose products torch counts
    model = AutoModelForCausalLM.from_config(config)
    rank = lora_rank if architecture in {"qwen2", "llama"} else 0  # with all its projections in matrices of their own
    if rank:
        model.enable_input_require_grads()
        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules=names))
    ids = torch.randint(3, 128, (2, 48))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    whole_matrices = 2 * 2 * 48**2  # eager attention computes what no token sees, too
    ours = model_flops(shape(config.to_dict()), LoraConfig(rank=rank)).of(2 * 48, 2 * 48, whole_matrices)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_attention_costs_as_much_as_the_matrices_at_the_length_where_their_operations_are_equal() -> None:
    length = round(1 / attention_cost(QWEN))
    flops = model_flops(shape(QWEN))
    assert flops.per_square * length**2 == pytest.approx(flops.per_token * length, rel=1e-3)
    assert attention_cost(QWEN, LoraConfig(rank=8)) != attention_cost(QWEN)
    assert attention_cost({"model_type": "olmo2", "hidden_size": 1000}) == 1 / 12_000
    assert attention_cost({}) == 0
