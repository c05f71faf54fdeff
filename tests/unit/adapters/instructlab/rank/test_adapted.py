"""Adapters in models of every family, against the closed formulas; what is saved means the same to PEFT alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sft.config.schema import LoraConfig, LoraInit
from sft.errors import StageError
from tests.support.architectures import ATTENTION_ONLY, HYBRID, installed, tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

_READ_BY_KERNELS = ("out_proj", "dt_proj")
_ONCE_EXPERTS = ("gate_proj", "up_proj", "down_proj")  # of the layers that are not fused experts
LEFT_BY_PEFT = {
    **dict.fromkeys(("falcon_h1", "mamba", "nemotron_h"), _READ_BY_KERNELS),
    **dict.fromkeys(("deepseek_v3", "glm4_moe", "qwen3_next"), _ONCE_EXPERTS),
}


def lora(**settings: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(LoraConfig(**{"rank": 4, "alpha": 6, "dropout": 0.0, **settings}))
    return plain


def adapted(model: Any, **settings: Any) -> Any:
    from sft.adapters.instructlab.rank.adapted import with_adapters

    return with_adapters(model, lora(**settings), adapted_model="base").eval()


def moved(model: Any) -> Any:
    """Give everything that is trained other values."""
    import torch

    random = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    return model


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.arange(3, 23)[None], use_cache=False).logits


QUICK = {"llama", "gpt_neox", "phi3", "mixtral", "gpt_oss", "glm4_moe", "mamba"}
FAMILIES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive) for name in (*ATTENTION_ONLY, *HYBRID)
]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_linear_layer_but_the_head_and_each_fused_expert_is_adapted(family: str, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    if family not in installed():
        pytest.skip("transformers has no such architecture")
    from sft.adapters.instructlab.rank.adapted import adapter_layers, facts
    from sft.adapters.instructlab.rank.lora import on_base

    torch.manual_seed(0)
    base = tiny(family).eval()
    weights = {name: value.clone() for name, value in base.state_dict().items()}
    linear = {
        name
        for name, module in base.named_modules()
        if type(module).__name__ in {"Linear", "Conv1D"}
        and module is not base.get_output_embeddings()
        and name.rpartition(".")[2] not in LEFT_BY_PEFT.get(family, ())
    }
    fused = {name for name, value in base.named_parameters() if value.ndim == 3 and ".experts." in name}
    before = logits(base)
    made = adapted(base)
    assert {*adapter_layers(made)} == linear | fused
    assert torch.equal(logits(made), before)
    assert facts(made)["num_trained"] == sum(p.numel() for n, p in made.named_parameters() if "lora_" in n)
    expected = logits(moved(made))
    assert (expected - before).abs().max() > 1e-3
    whole = on_base(again(family, weights), made, made.state_dict())
    whole.save_pretrained(tmp_path, save_embedding_layers=False)
    assert torch.allclose(logits(whole.merge_and_unload()), expected, atol=1e-4)
    loaded = PeftModel.from_pretrained(again(family, weights), tmp_path).eval()
    assert torch.allclose(logits(loaded), expected, atol=1e-4)


def again(family: str, weights: dict[str, Any]) -> Any:
    """The model with the weights that it had before it was adapted."""
    model = tiny(family).eval()
    model.load_state_dict(weights)
    return model


def products(made: Any) -> dict[str, Any]:
    """B A of each adapter, in fp64, by the name of the weight that it adapts."""
    from sft.adapters.instructlab.rank.adapted import NAME, adapter_layers

    return {
        name: layer.lora_B[NAME].weight.detach().double() @ layer.lora_A[NAME].weight.detach().double()
        for name, layer in adapter_layers(made).items()
    }


VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8}, "alpha_pattern": {"down_proj": 20}},
    "some": {"target_modules": ["q_proj", "mlp.down_proj"], "layers": [1]},
    "gaussian": {"init": LoraInit.gaussian},
    "orthogonal": {"init": LoraInit.orthogonal},
    "dora": {"use_dora": True},
    "pissa": {"init": LoraInit.pissa},
    "pissa_rslora_patterns": {"init": LoraInit.pissa, "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "pissa_niter": {"init": LoraInit.pissa_niter_16},
    "olora": {"init": LoraInit.olora},
    "olora_dora": {"init": LoraInit.olora, "use_dora": True},
    "whole": {"modules_to_save": ["embed_tokens", "lm_head", "norm"]},
}


def scale(settings: dict[str, Any], name: str) -> float:
    """The factor of B A by the papers: alpha / r, or alpha / sqrt(r)."""
    ranks = settings.get("rank_pattern", {})
    rank = next((value for end, value in ranks.items() if name.endswith(end)), 4)
    alpha = 20 if name.endswith("down_proj") and "alpha_pattern" in settings else 6
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_computes_what_its_formula_says_and_so_do_the_saved_adapter_and_the_merged_model(
    variant: str, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel

    from sft.adapters.instructlab.rank.lora import on_base

    settings = VARIANTS[variant]
    base = tiny("llama").eval()
    weights = {name: value.clone() for name, value in base.state_dict().items()}
    before = logits(base)
    made = adapted(base, **settings)
    assert torch.allclose(logits(made), before, atol=2e-4)
    first = products(made)
    if "some" in variant:
        assert {*first} == {"model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"}
    expected = logits(moved(made))
    last, by_formula = products(made), again("llama", weights)
    magnitudes = {n: p.detach() for n, p in made.named_parameters() if "lora_magnitude_vector" in n}
    takes_out = "pissa" in variant or "olora" in variant
    with torch.no_grad():
        for name, product in last.items():
            weight = by_formula.get_submodule(name).weight
            summed = weight.double() + scale(settings, name) * (product - first[name] * takes_out)
            if settings.get("use_dora"):
                magnitude = magnitudes[f"base_model.model.{name}.lora_magnitude_vector.default.weight"]
                summed *= (magnitude.double() / summed.norm(dim=1))[:, None]
            weight.copy_(summed)
        for name in ("model.embed_tokens", "lm_head", "model.norm") if variant == "whole" else ():
            trained = made.get_parameter(f"base_model.model.{name}.modules_to_save.default.weight")
            by_formula.get_submodule(name).weight.copy_(trained)
    assert torch.allclose(logits(by_formula), expected, atol=2e-3)

    whole = on_base(again("llama", weights), made, made.state_dict())
    whole.save_pretrained(tmp_path, save_embedding_layers=False)
    assert torch.allclose(logits(whole.merge_and_unload()), expected, atol=2e-3)
    alone = PeftModel.from_pretrained(again("llama", weights), tmp_path).eval()
    assert torch.allclose(logits(alone), expected, atol=2e-3)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == (8 if takes_out else 4)


@pytest.mark.parametrize("init", [LoraInit.pissa, LoraInit.olora])
def test_what_an_adapter_begins_with_is_taken_out_of_its_weight(init: LoraInit) -> None:
    import torch

    base = tiny("llama")
    weight = base.model.layers[0].mlp.up_proj.weight.detach().double().clone()
    made = adapted(base, init=init)
    product = 6 / 4 * products(made)["model.layers.0.mlp.up_proj"]
    if init is LoraInit.pissa:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        expected = left[:, :4] * values[:4] @ right[:4]
    else:
        orthogonal, upper = torch.linalg.qr(weight)
        expected = 6 / 4 * orthogonal[:, :4] @ upper[:4]  # PEFT scales it
    assert torch.allclose(product, expected, atol=1e-5)
    rest = made.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight.detach().double()
    assert torch.allclose(rest + expected, weight, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target_modules": ["q_proj", "wrong"]}, "target_modules: the model has no wrong to adapt"),
        ({"target_modules": ["lm_head"]}, "target_modules: the model has no lm_head to adapt"),
        ({"target_modules": ["proj"]}, "target_modules: the model has no proj to adapt"),
        ({"layers": [0, 2]}, "layers: the model has no layer 2; its last one is 1"),
        ({"rank_pattern": {"lm_head": 2}}, "rank_pattern: lm_head is the end of no adapted layer's name"),
        ({"layers": [0], "alpha_pattern": {"layers.1.mlp.up_proj": 2}}, "alpha_pattern: layers.1.mlp.up_proj is"),
        ({"modules_to_save": ["wrong"]}, "modules_to_save: the model has no wrong"),
        ({"modules_to_save": ["up_proj"]}, "modules_to_save: model.layers.0.mlp.up_proj is adapted already"),
        ({"init": LoraInit.pissa, "rank": 17}, "rank: model.layers.0.self_attn.k_proj has only 16 directions"),
        ({"init": LoraInit.orthogonal, "rank": 5}, "init=orthogonal: needs an even rank, not 5"),
    ],
)
def test_what_the_model_has_not_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(StageError, match=f"training.lora.{said}") as caught:
        adapted(tiny("llama"), **settings)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dropout": 0.1}, "dropout=0.1: the model's experts are one tensor"),
        ({"use_dora": True}, "use_dora: the model's experts are one tensor"),
        ({"init": LoraInit.pissa}, "init=pissa: the model's experts are one tensor"),
    ],
)
def test_what_experts_can_not_is_refused_with_what_leaves_them_out(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(StageError, match=f"training.lora.{said}") as caught:
        adapted(tiny("mixtral"), **settings)
    assert str(caught.value.fix).endswith("target_modules=[k_proj, o_proj, q_proj, v_proj]")
    adapted(tiny("mixtral"), **settings, target_modules=["k_proj", "o_proj"])


def test_a_module_that_shares_its_weights_is_not_trained_whole() -> None:
    with pytest.raises(StageError, match="modules_to_save: lm_head shares its weights"):
        adapted(tiny("llama", tie_word_embeddings=True), modules_to_save=["lm_head"])


def test_the_note_says_what_is_trained_and_what_is_left() -> None:
    from sft.adapters.instructlab.rank.adapted import facts

    made = facts(adapted(tiny("llama"), target_modules=["q_proj"], modules_to_save=["lm_head"]))
    assert made == {
        "num_trained": 2 * 4 * (32 + 32) + 97 * 32,
        "num_adapters": 2,
        "adapted": ["q_proj"],
        "saved_whole": ["lm_head"],
        "not_adapted": [
            *("down_proj", "embed_tokens", "gate_proj", "input_layernorm", "k_proj", "norm", "o_proj"),
            *("post_attention_layernorm", "up_proj", "v_proj"),
        ],
    }
