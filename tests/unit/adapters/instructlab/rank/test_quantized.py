"""A base in 4 bits against the paper's data type and against the same model with its widened weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sft.config.schema import BaseQuantization, LoraConfig, LoraInit
from sft.errors import StageError
from tests.support import nf4
from tests.support.architectures import installed, tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def quantized(weight: Any, **settings: Any) -> Any:
    from sft.adapters.instructlab.rank.quantized import QuantizedLinear

    return QuantizedLinear(weight, None, **{"double_quant": False, **settings})


def codes_of(layer: Any) -> Any:
    """The index of each weight, the first one of a byte in its upper half."""
    packed = layer.packed.numpy().reshape(-1)
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)


def test_a_weight_becomes_the_nearest_of_the_papers_values_times_the_largest_of_its_64() -> None:
    import torch

    weight = torch.randn(48, 80, generator=torch.Generator().manual_seed(0))
    layer = quantized(weight)
    expected, codes, scales = nf4.widened(weight.numpy())
    assert np.array_equal(layer.scales.numpy(), scales)
    assert np.array_equal(codes_of(layer), codes)
    assert np.allclose(layer.weight.numpy(), expected, atol=2e-6)
    assert layer.num_bytes == 48 * 80 // 2 + 48 * 80 // 64 * 4


def test_scales_in_8_bits_are_the_nearest_of_256_values_times_the_largest_of_their_256_from_the_mean() -> None:
    import torch

    weight = torch.randn(512, 64, generator=torch.Generator().manual_seed(0))
    layer = quantized(weight, double_quant=True)
    whole = quantized(weight)
    scales = np.abs(weight.numpy().reshape(-1, 64)).max(axis=1)
    mean = scales.mean()
    blocks = (scales - mean).reshape(-1, 256)
    of_scales, code = np.abs(blocks).max(axis=1), layer.code_of_scales.numpy()
    nearest = np.abs(blocks[:, :, None] / of_scales[:, None, None] - code).argmin(axis=2)
    expected = (code[nearest] * of_scales[:, None]).reshape(-1) + mean
    assert len(np.unique(code)) == 256
    assert np.abs(expected - scales).max() < 0.02 * scales.max()
    assert np.array_equal(codes_of(layer), codes_of(whole))
    widened = (nf4.nf4_values()[codes_of(layer)].reshape(-1, 64) * expected[:, None]).reshape(512, 64)
    assert np.allclose(layer.weight.numpy(), widened, atol=2e-5)
    assert layer.num_bytes == 512 * 32 + 512 + 4 + 2 * 4 + 256 * 4


@pytest.mark.long
def test_a_last_block_may_be_short() -> None:
    import torch

    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    layer = quantized(weight)
    scale = weight.abs().max()
    expected = nf4.nf4_values()[codes_of(layer)[:35]].reshape(7, 5) * float(scale)
    assert np.allclose(layer.weight.numpy(), expected, atol=2e-6)
    assert float((layer.weight - weight).abs().max()) < 0.16 * scale


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_and_gradients_are_those_of_the_widened_weight_and_a_cast_leaves_it(dtype: str) -> None:
    import torch

    from sft.adapters.instructlab.rank.quantized import QuantizedLinear

    random, kind = torch.Generator().manual_seed(0), getattr(torch, dtype)
    bias = torch.nn.Parameter(torch.randn(24, generator=random), requires_grad=False)
    layer = QuantizedLinear(torch.randn(24, 40, generator=random).to(kind), bias, double_quant=False)
    before = layer.weight
    given = torch.randn(2, 3, 40, generator=random).to(kind).requires_grad_()
    weights = torch.randn(2, 3, 24, generator=random).to(kind)
    (layer(given) * weights).sum().backward()
    own, given.grad = given.grad, None
    (torch.nn.functional.linear(given, before, bias.to(kind)) * weights).sum().backward()
    assert torch.equal(own, given.grad)
    assert torch.equal(layer.double().weight, before)
    assert not any("packed" in name or "scales" in name for name in layer.state_dict())


def lora(**settings: Any) -> dict[str, Any]:
    given = {"rank": 4, "alpha": 6, "dropout": 0.0, "quantize": BaseQuantization.nf4, **settings}
    plain: dict[str, Any] = msgspec.to_builtins(LoraConfig(**given))
    return plain


def adapted(model: Any, **settings: Any) -> Any:
    from sft.adapters.instructlab.rank.adapted import with_adapters

    return with_adapters(model, lora(**settings), adapted_model="base")


def quantized_layers(made: Any) -> dict[str, Any]:
    from sft.adapters.instructlab.rank.quantized import QuantizedLinear

    return {
        name.removesuffix(".base_layer"): module
        for name, module in made.get_base_model().named_modules()
        if isinstance(module, QuantizedLinear)
    }


def widened(made: Any) -> Any:
    """The same model with plain layers that have the widened weights."""
    import torch

    for module in list(made.modules()):
        for end, layer in list(module.named_children()):
            if type(layer).__name__ == "QuantizedLinear":
                plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
                plain.weight = torch.nn.Parameter(layer.widened(torch.float32), requires_grad=False)
                plain.bias = layer.bias
                setattr(module, end, plain)
    return made


def moved(model: Any) -> Any:
    """Give everything that is trained other values, always the same."""
    import torch

    random = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    return model


def loss_of(model: Any) -> Any:
    import torch

    ids = torch.arange(3, 23)[None]
    return model(input_ids=ids, labels=ids, use_cache=False).loss


VARIANTS = {
    "plain": {},
    "double": {"quantize": BaseQuantization.nf4_double_quant},
    "some": {"target_modules": ["q_proj"], "layers": [1], "use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init": LoraInit.pissa},
    "whole": {"modules_to_save": ["embed_tokens", "lm_head", "norm"]},
}


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("recomputes", [False, True])
def test_loss_and_gradients_are_those_of_the_same_model_with_widened_weights(variant: str, recomputes: bool) -> None:
    import torch

    def gradients(made: Any) -> tuple[Any, dict[str, Any]]:
        moved(made).train()
        if recomputes:
            made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        loss = loss_of(made)
        loss.backward()
        return loss.detach(), {name: p.grad for name, p in made.named_parameters() if p.grad is not None}

    def fresh() -> Any:
        torch.manual_seed(1)
        return adapted(tiny("llama", attention_bias=True), **VARIANTS[variant])

    loss, found = gradients(fresh())
    expected_loss, expected = gradients(widened(fresh()))
    torch.manual_seed(1)
    whole = {**VARIANTS[variant], "quantize": BaseQuantization.none}
    unquantized, _ = gradients(adapted(tiny("llama", attention_bias=True), **whole))
    assert found.keys() == expected.keys()
    assert torch.allclose(loss, expected_loss, atol=1e-6)
    assert abs(float(loss - unquantized)) > 1e-5  # 4 bits are another model
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)


def test_every_linear_layer_but_the_head_is_quantized_whether_it_is_adapted_or_not() -> None:
    from sft.adapters.instructlab.rank.adapted import facts, matrices_of

    model = tiny("llama")
    every = matrices_of(model)
    made = adapted(model, target_modules=["q_proj"], modules_to_save=["lm_head", "k_proj"])
    assert {*quantized_layers(made)} == {name for name in every if not name.endswith("k_proj")}
    found = facts(made)
    assert found["num_quantized"] == 12
    assert found["quantized_bytes"] == sum(each.num_bytes for each in quantized_layers(made).values())
    assert "up_proj" in found["not_adapted"]
    assert "num_quantized" not in facts(adapted(tiny("llama"), quantize=BaseQuantization.none))


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "phi3", "gpt_neox", "mamba", "falcon_h1"])
def test_other_architectures_compute_with_the_widened_weights(family: str) -> None:
    import torch

    if family not in installed():
        pytest.skip("transformers has no such architecture")
    made = moved(adapted(tiny(family).eval()))
    assert quantized_layers(made)
    loss = loss_of(made).detach()
    assert torch.allclose(loss, loss_of(widened(made)).detach(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
def test_a_weight_that_lies_the_other_way_round_is_quantized_the_right_way() -> None:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    before, loss = model.transformer.h[0].mlp.c_fc.weight.detach().clone(), loss_of(model).detach()
    made = adapted(model).eval()
    after = quantized_layers(made)["transformer.h.0.mlp.c_fc"].weight
    assert after.shape == before.shape == (32, 128)
    assert (after - before).std() < 0.12 * before.std()
    assert abs(float(loss_of(made).detach() - loss)) < 0.05


@pytest.mark.parametrize("variant", ["plain", "dora", "pissa", "whole"])
def test_the_saved_adapter_and_the_merged_model_are_of_the_unquantized_base(variant: str, tmp_path: Path) -> None:
    """W + s B A by the formula where there is one, and PEFT alone makes the same of the saved adapter."""
    import torch
    from peft import PeftModel

    from sft.adapters.instructlab.rank.adapted import NAME, adapter_layers
    from sft.adapters.instructlab.rank.lora import on_base

    base = tiny("llama").eval()
    weights = {name: value.clone() for name, value in base.state_dict().items()}

    def again() -> Any:
        model = tiny("llama").eval()
        model.load_state_dict(weights)
        return model

    made = adapted(base, **VARIANTS[variant])
    layer = adapter_layers(made)["model.layers.0.mlp.up_proj"]
    first = layer.lora_B[NAME].weight.detach() @ layer.lora_A[NAME].weight.detach()
    moved(made)
    last = layer.lora_B[NAME].weight.detach() @ layer.lora_A[NAME].weight.detach()
    whole = on_base(again(), made, made.state_dict())
    whole.save_pretrained(tmp_path, save_embedding_layers=False)
    merged = whole.merge_and_unload()
    if variant != "dora":
        expected = weights["model.layers.0.mlp.up_proj.weight"] + 6 / 4 * (last - first)
        assert torch.allclose(merged.model.layers[0].mlp.up_proj.weight, expected, atol=1e-5)
    alone = PeftModel.from_pretrained(again(), tmp_path).eval()
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        assert torch.allclose(alone(input_ids=ids).logits, merged(input_ids=ids).logits, atol=2e-3)


def test_fused_experts_are_refused() -> None:
    with pytest.raises(StageError, match=r"quantize=nf4: the model's experts .* are no linear layers") as caught:
        adapted(tiny("mixtral"), target_modules=["q_proj"])
    assert caught.value.fix == "training.lora.quantize=none"


def test_without_the_package_a_rank_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(StageError, match=r"training.lora.quantize: bitsandbytes can't be imported here") as caught:
        adapted(tiny("llama"))
    assert "sft-runner[qlora]" in str(caught.value.fix)
