"""The memory estimate: it counts as transformers and autograd do; benchmarks/simulated_memory.py has FSDP's part."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.config.schema import BaseQuantization, GradientCheckpointing, LoraConfig, ShardingStrategy
from sft.planning.adapters import num_adapter_parameters, quantized_by
from sft.planning.memory import (
    GPU_OVERHEAD,
    Moment,
    Setup,
    copied_bytes,
    largest_budget,
    model_bytes,
    moments,
    peak_bytes,
    state_bytes,
)
from sft.planning.model_shape import FAMILIES, Shape, activations, shape_of

QWEN = {  # config.json of Qwen2.5-1.5B-Instruct, as far as it matters here
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
COUNT = 1_543_714_304  # what the hub says of it
NONE, SELECTIVE, FULL = GradientCheckpointing.none, GradientCheckpointing.selective, GradientCheckpointing.full
EIGHT = Setup(
    ranks=8,
    ranks_per_node=4,
    token_budget=4_000,
    value_bytes=2,
    gradient_checkpointing=FULL,
    on_gpu=True,
)
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False},
    {"attention_bias": True},
    {"mlp_bias": True},
    {"num_key_value_heads": 2},
    {"head_dim": 24},
)
READ_BY_SOME = {
    "mlp_bias": {"llama", "granite", "smollm3"},
    "num_key_value_heads": set(FAMILIES) - {"gpt_neox"},
    "head_dim": set(FAMILIES) - {"gpt_neox"},
}


def qwen() -> Shape:
    shape = shape_of(QWEN)
    assert shape is not None
    return shape


def read(folder: Path, config: Any) -> Shape:
    """The shape that the config's own ``config.json`` tells."""
    config.save_pretrained(folder)
    shape = shape_of(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    assert shape is not None
    return shape


@pytest.mark.long
@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize("model_type", FAMILIES)
def test_parameters_are_those_of_transformers(model_type: str, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    for variant in VARIANTS:
        if any(model_type not in READ_BY_SOME.get(key, FAMILIES) for key in variant):
            continue
        config = transformers.AutoConfig.for_model(model_type, **SMALL, **variant)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        shape = read(tmp_path, config)
        of_layers = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name)
        assert shape.num_parameters == model.num_parameters(), variant
        assert shape.per_layer * shape.num_layers == of_layers, variant


def saved_bytes(model: Any, num_tokens: int) -> int:
    """What autograd keeps of a forward pass besides parameters and buffers."""
    import torch

    own = {t.untyped_storage().data_ptr() for t in itertools.chain(model.parameters(), model.buffers())}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=torch.zeros(1, num_tokens, dtype=torch.long))
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.long
@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize("value_bytes", [2, 4])
@pytest.mark.parametrize("model_type", [m for m in FAMILIES if m != "gemma2"])  # it has no sdpa
def test_a_layer_keeps_what_autograd_saves(model_type: str, value_bytes: int, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    shape, tokens, saved = None, 16, []
    for layers in (3, 2):
        sizes = {**SMALL, "num_hidden_layers": layers, "hidden_size": 128, "intermediate_size": 384}
        if model_type in READ_BY_SOME["num_key_value_heads"]:
            sizes["num_key_value_heads"] = 2
        if FAMILIES[model_type].experts:
            sizes |= {"num_experts": 2, "num_local_experts": 2, "moe_intermediate_size": 384, "num_experts_per_tok": 2}
        config = transformers.AutoConfig.for_model(model_type, **sizes)
        shape = read(tmp_path, config)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        model.to(torch.bfloat16 if value_bytes == 2 else torch.float32)
        saved.append(saved_bytes(model, tokens))
    assert shape is not None
    assert activations(shape, value_bytes) == pytest.approx((saved[0] - saved[1]) / tokens, rel=0.06)


@pytest.mark.long
@pytest.mark.slow  # imports transformers
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, about what peft calls
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("value_bytes", [2, 4])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma"])
def test_a_frozen_layer_with_adapters_keeps_what_autograd_saves(
    model_type: str, value_bytes: int, dropout: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))

    def as_on_a_gpu(tensor: Any, p: float, training: bool, _inplace: bool = False) -> Any:
        return torch.native_dropout(tensor, p, training)[0]

    monkeypatch.setattr(torch.nn.functional, "dropout", as_on_a_gpu)
    shape, tokens, saved = None, 16, []
    for layers in (3, 2):
        sizes = {**SMALL, "num_hidden_layers": layers, "hidden_size": 128, "intermediate_size": 384}
        sizes["num_key_value_heads"] = 2
        config = transformers.AutoConfig.for_model(model_type, **sizes)
        shape = read(tmp_path, config)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        adapters = peft.LoraConfig(r=1, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, adapters).to(torch.bfloat16 if value_bytes == 2 else torch.float32).train()
        model.enable_input_require_grads()
        saved.append(saved_bytes(model, tokens))
    assert shape is not None
    setup = replace(
        EIGHT, value_bytes=value_bytes, num_trained=1, adapter_dropout=dropout > 0, gradient_checkpointing=NONE
    )
    of_all = moments(shape, ShardingStrategy.FULL_SHARD, setup)["layer"].per_token
    of_a_layer = (of_all - 2 * value_bytes * shape.ffn_width) / shape.num_layers
    assert of_a_layer == pytest.approx((saved[0] - saved[1]) / tokens, rel=0.06)


def test_the_parameters_of_a_known_model_are_counted_exactly() -> None:
    assert qwen().num_parameters == COUNT
    assert qwen().num_root == 151_936 * 1536 + 1536


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "gpt2", "n_embd": 768},
        {"model_type": "qwen2"},
        {**QWEN, "hidden_size": "1"},
        {**QWEN, "model_type": "qwen3_moe", "mlp_only_layers": [0]},
    ],
)
def test_an_architecture_that_is_not_known_is_no_guess(config: dict[str, object]) -> None:
    assert shape_of(config) is None


def test_every_expert_is_held_but_a_token_goes_through_few() -> None:
    dense = shape_of({**QWEN, "model_type": "mistral"})
    sparse = shape_of({**QWEN, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2})
    assert dense is not None
    assert sparse is not None
    assert sparse.num_parameters - dense.num_parameters == 28 * (7 * 3 * 1536 * 8960 + 8 * 1536)
    assert sparse.ffn_width == 2 * dense.ffn_width


def test_more_sharding_needs_less() -> None:
    order = (
        ShardingStrategy.FULL_SHARD,
        ShardingStrategy.SHARD_GRAD_OP,
        ShardingStrategy.HYBRID_SHARD,
        ShardingStrategy.NO_SHARD,
    )
    needed = [peak_bytes(qwen(), sharding, replace(EIGHT, ranks_per_node=2)) for sharding in order]
    assert needed == sorted(needed)
    whole = moments(qwen(), ShardingStrategy.NO_SHARD, EIGHT)["loss"].fixed
    at_work = 2 * (qwen().per_layer + qwen().num_root)  # in bf16
    assert whole == 16 * COUNT + at_work + GPU_OVERHEAD


def test_a_token_costs_what_its_moment_holds() -> None:
    inputs, layer, ffn = 2 * 1536 * 28, activations(qwen(), 2), 2 * 2 * 8960
    assert layer == 2 * 6 * 1536 + 2 * (2 * (1536 + 256) + 2 * 1536 + 4 * 8960)
    per_token = {name: moment.per_token for name, moment in moments(qwen(), ShardingStrategy.FULL_SHARD, EIGHT).items()}
    logits = {"loss": inputs + 6 * 151_936, "head": inputs + 2 * 151_936}
    assert per_token == {**logits, "layer": inputs + layer + ffn, "embedding": 0, "gather": 0}
    half = moments(qwen(), ShardingStrategy.FULL_SHARD, replace(EIGHT, loss_share=0.5))
    assert half["loss"].per_token == inputs + 3 * 151_936
    kept = moments(qwen(), ShardingStrategy.FULL_SHARD, replace(EIGHT, gradient_checkpointing=NONE))
    assert kept["layer"].per_token == 28 * layer + ffn
    second = moments(qwen(), ShardingStrategy.FULL_SHARD, replace(EIGHT, gradient_checkpointing=SELECTIVE))
    assert second["layer"].per_token == 14 * (2 * 1536 + layer) + ffn
    capped = moments(replace(qwen(), capped=True), ShardingStrategy.FULL_SHARD, EIGHT)
    assert capped["loss"].per_token == inputs + 8 * 151_936


def test_more_tokens_than_a_chunk_of_the_loss_have_logits_one_chunk_at_a_time() -> None:
    def at_loss(num_tokens: int, share: float) -> Moment:
        setup = replace(EIGHT, token_budget=num_tokens, loss_share=share)
        return moments(qwen(), ShardingStrategy.FULL_SHARD, setup)["loss"]

    whole, chunked = at_loss(4_096, 1.0), at_loss(4_097, 1.0)
    assert chunked.fixed - whole.fixed == 4_096 * 6 * 151_936 + 4 * 151_936 * 1536  # and the weight's gradient in fp32
    assert chunked.per_token == 2 * 1536 * 28 + 2 * 2 * 1536
    assert at_loss(8_192, 0.5) == at_loss(4_096, 0.5)
    gemma = replace(qwen(), capped=True)
    large = replace(EIGHT, token_budget=100_000)
    assert moments(gemma, ShardingStrategy.FULL_SHARD, large)["loss"].per_token > 8 * 151_936


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_the_largest_budget_is_the_last_that_fits(share: float) -> None:
    available, setup = 80 * 2**30, replace(EIGHT, loss_share=share)
    budget = largest_budget(qwen(), ShardingStrategy.FULL_SHARD, setup, available)
    assert peak_bytes(qwen(), ShardingStrategy.FULL_SHARD, replace(setup, token_budget=budget)) <= available
    assert peak_bytes(qwen(), ShardingStrategy.FULL_SHARD, replace(setup, token_budget=budget + 1)) > available
    assert largest_budget(qwen(), ShardingStrategy.NO_SHARD, setup, 2**30) == 0


def test_adapters_and_offloading_take_the_optimizer_off_the_device() -> None:
    def fixed(setup: Setup) -> int:
        return moments(qwen(), ShardingStrategy.FULL_SHARD, setup)["loss"].fixed

    adapters = replace(EIGHT, num_trained=8_000_000)
    assert fixed(EIGHT) - fixed(adapters) == 12 * COUNT // 8 - 16_000_000
    assert fixed(EIGHT) - fixed(replace(EIGHT, cpu_offload_params=True)) == 2 * COUNT


def test_frozen_weights_stay_as_they_are_stored_unless_fsdp1_computes_in_fp32() -> None:
    def states(version: int, stored_bytes: int, value_bytes: int) -> int:
        shape = replace(qwen(), stored_bytes=stored_bytes)
        setup = replace(EIGHT, num_trained=8_000_000, value_bytes=value_bytes, fsdp_version=version)
        has_no_copy = version == 1 and (stored_bytes == value_bytes == 2 or value_bytes == 4)
        gathered = 0 if has_no_copy else value_bytes * (shape.per_layer + shape.num_root)
        fixed = moments(shape, ShardingStrategy.NO_SHARD, setup)["loss"].fixed
        return fixed - gathered - 16 * 8_000_000 - GPU_OVERHEAD

    assert (states(1, 2, 2), states(1, 4, 2), states(1, 2, 4)) == (2 * COUNT, 4 * COUNT, 4 * COUNT)
    assert (states(2, 2, 2), states(2, 4, 2), states(2, 2, 4)) == (2 * COUNT, 4 * COUNT, 2 * COUNT)
    assert qwen().stored_bytes == 4
    stored = shape_of({**QWEN, "torch_dtype": "bfloat16"})
    assert stored is not None
    assert stored.stored_bytes == 2


def test_a_base_in_4_bits_is_whole_on_each_rank_and_the_rest_is_sharded() -> None:
    lora = LoraConfig(rank=16, quantize=BaseQuantization.nf4)
    base, trained = quantized_by(lora, qwen()), 1_000_000
    assert base.num_weights == 28 * (2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960)
    setup = replace(EIGHT, num_trained=trained, quantized=base)
    found = moments(qwen(), ShardingStrategy.FULL_SHARD, setup)
    left, root = COUNT - base.num_weights, qwen().num_root
    states = (4 * left + 16 * trained) // 8 + base.num_bytes + GPU_OVERHEAD  # stored in fp32
    unit = (left - root) // 28
    assert found["loss"].fixed == states + 2 * (2 * unit + root)
    assert found["layer"].fixed == found["loss"].fixed + 2 * base.largest
    assert found["gather"].fixed == states + 2 * 2 * (root + unit)  # as it comes, and as it is laid out
    offloaded = moments(qwen(), ShardingStrategy.FULL_SHARD, replace(setup, cpu_offload_params=True))
    assert found["loss"].fixed - offloaded["loss"].fixed == states - base.num_bytes - GPU_OVERHEAD


def test_adapters_with_dropout_keep_what_they_dropped() -> None:
    adapters = replace(EIGHT, num_trained=8_000_000, gradient_checkpointing=NONE)
    kept = [
        moments(qwen(), ShardingStrategy.FULL_SHARD, replace(adapters, adapter_dropout=dropout))["layer"].per_token
        for dropout in (False, True)
    ]
    dropped = 3 * (3 * 1536 + 1536 + 2 * 1536 + 8960)  # a value and a mask
    assert kept[1] - kept[0] == 28 * (dropped - 2 * (2 * 1536 + 8960))  # in the place of inputs, which some share


def test_adapters_are_counted_as_peft_does() -> None:
    assert (
        num_adapter_parameters(LoraConfig(rank=16), qwen()) == 18_464_768
    )  # print_trainable_parameters(), all linear layers


def test_on_a_cpu_sharding_does_not_lower_the_peak() -> None:
    here = replace(EIGHT, on_gpu=False)
    fixed = {sharding: moments(qwen(), sharding, here)["loss"].fixed for sharding in ShardingStrategy}
    assert fixed.pop(ShardingStrategy.NO_SHARD) == 20 * COUNT + 620_000_000  # saved where they lie
    assert set(fixed.values()) == {24 * COUNT + 620_000_000}


def test_a_copy_of_a_state_takes_host_memory_only() -> None:
    for sharding, shards in ((ShardingStrategy.FULL_SHARD, 8), (ShardingStrategy.HYBRID_SHARD, 4)):
        for setup, num_trained in ((EIGHT, COUNT), (replace(EIGHT, num_trained=8_000_000), 8_000_000)):
            copying = replace(setup, copies_states=True)
            assert copied_bytes(qwen(), sharding, setup) == 0
            assert copied_bytes(qwen(), sharding, copying) == 12 * num_trained // shards
            assert peak_bytes(qwen(), sharding, copying) == peak_bytes(qwen(), sharding, setup)
            here = [peak_bytes(qwen(), sharding, replace(each, on_gpu=False)) for each in (setup, copying)]
            assert here[1] - here[0] == 12 * num_trained // shards


def test_checkpoints_are_fp32_weights_and_the_moments_of_what_is_trained() -> None:
    assert model_bytes(qwen()) == 4 * COUNT
    assert model_bytes(replace(qwen(), stored_bytes=2)) == 2 * COUNT
    assert model_bytes(replace(qwen(), stored_bytes=2), 4) == 4 * COUNT
    assert state_bytes(qwen(), EIGHT) == 12 * COUNT
    assert state_bytes(qwen(), replace(EIGHT, num_trained=1000)) == 12_000
    assert state_bytes(qwen(), replace(EIGHT, keeps_best=True)) == 16 * COUNT


def test_the_best_weights_stay_in_host_memory_whether_or_not_states_are_copied_there() -> None:
    keeping = replace(EIGHT, keeps_best=True)
    assert copied_bytes(qwen(), ShardingStrategy.FULL_SHARD, keeping) == 4 * COUNT // 8
    copying = replace(keeping, copies_states=True)
    assert copied_bytes(qwen(), ShardingStrategy.FULL_SHARD, copying) == 16 * COUNT // 8
