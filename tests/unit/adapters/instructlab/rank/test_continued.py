"""Adapters of every kind that are continued begin as the file has them, and are saved so again, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sft.config.continued_adapter import take_settings
from sft.config.schema import AdapterUse, LoraConfig, LoraInit, ModelConfig
from sft.errors import StageError
from tests.support.architectures import tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "patterns": ("llama", {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 3}}),
    "layers": ("llama", {"layers": [1], "target_modules": ["q_proj", "mlp.up_proj"]}),
    "dora": ("llama", {"use_dora": True}),
    "whole": ("llama", {"modules_to_save": ["embed_tokens", "lm_head", "norm"]}),
    "pissa": ("llama", {"init": LoraInit.pissa, "rank_pattern": {"q_proj": 2}}),
    "experts": ("mixtral", {}),
    "gpt2_like": ("gpt_neox", {"use_dora": True}),
}


def adapted(network: Any, lora: LoraConfig) -> Any:
    from sft.adapters.instructlab.rank.adapted import with_adapters

    return with_adapters(network, msgspec.to_builtins(lora), adapted_model="base").eval()


def moved(model: Any) -> Any:
    import torch

    random = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    return model


def saved(model: Any, architecture: str, folder: Path) -> Path:
    """As a training saves it: as an adapter of the unchanged base."""
    from sft.adapters.instructlab.rank.lora import on_base

    on_base(tiny(architecture), model, model.state_dict()).save_pretrained(folder, save_embedding_layers=False)
    return folder


def settings_of(folder: Path) -> LoraConfig:
    lora = LoraConfig()
    assert not [*take_settings(ModelConfig(adapter=str(folder), adapter_use=AdapterUse.continued), lora)]
    return lora


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.arange(3, 23)[None], use_cache=False).logits


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_as_the_file_and_is_saved_as_the_file(kind: str, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file

    from sft.adapters.instructlab.rank.continued import load

    architecture, settings = KINDS[kind]
    first = moved(adapted(tiny(architecture), LoraConfig(rank=4, alpha=6, dropout=0.0, **settings)))
    old = saved(first, architecture, tmp_path / "old")
    lora = settings_of(old)
    assert lora.rank == (8 if kind == "pissa" else 4)
    begun = adapted(tiny(architecture), lora)
    fresh = logits(begun)
    load(begun, old)
    assert (logits(begun) - fresh).abs().max() > 1e-3
    assert torch.equal(logits(begun), logits(PeftModel.from_pretrained(tiny(architecture), old).eval()))
    assert torch.allclose(logits(begun), logits(first), atol=1e-4)
    new = saved(begun, architecture, tmp_path / "new")
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (old, new))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert settings_of(new) == lora
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (old, new)]
    assert [config["init_lora_weights"] for config in configs] == [True, True]


def test_no_bit_is_lost_where_the_base_is_bf16(tmp_path: Path) -> None:
    import torch

    from sft.adapters.instructlab.rank.continued import load

    lora = LoraConfig(rank=4, alpha=6, dropout=0.0, modules_to_save=["lm_head", "embed_tokens"])
    old = saved(moved(adapted(tiny("llama"), lora)), "llama", tmp_path / "old")
    begun = adapted(tiny("llama").to(torch.bfloat16), settings_of(old))
    load(begun, old)
    assert {each.dtype for each in begun.parameters() if each.requires_grad} == {torch.float32}
    assert {each.dtype for each in begun.parameters() if not each.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_modules": ["q_proj", "k_proj"]}, "has base_model.*v_proj.lora_A.weight, for which the model has no"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}, "has no .*o_proj.lora_A.weight, which its own"),
        ({"r": 2}, r"has the shape \(4, 32\), and not \(2, 32\)"),
    ],
)
def test_a_file_that_does_not_fit_its_settings_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    from sft.adapters.instructlab.rank.continued import load

    lora = LoraConfig(rank=4, alpha=6, dropout=0.0, target_modules=["q_proj", "k_proj", "v_proj"])
    old = saved(adapted(tiny("llama"), lora), "llama", tmp_path / "old")
    config = json.loads((old / "adapter_config.json").read_text())
    (old / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(StageError, match=said):
        load(adapted(tiny("llama"), settings_of(old)), old)
