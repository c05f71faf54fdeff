"""What is recomputed in the backward pass, and that gradients are the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank import recomputation
from sft.errors import StageError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def network(*, adapters: bool) -> Any:
    """Three layers with random weights; with `adapters` LoRA of them, dropout included, that are not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 64}
    made = Qwen2ForCausalLM(Qwen2Config(hidden_size=32, intermediate_size=64, **sizes))
    if adapters:
        made.enable_input_require_grads()
        made = get_peft_model(made, LoraConfig(r=4, lora_dropout=0.2, init_lora_weights=False))
    return made


def gradients(mode: str, *, adapters: bool) -> tuple[Any, int]:
    """The gradients of all trained weights, and how often a layer was computed."""
    import torch
    from instructlab.training import model

    made, calls = network(adapters=adapters), []
    attention = next(type(part) for name, part in made.named_modules() if name.endswith("self_attn"))
    for part in made.modules():
        if isinstance(part, attention):
            part.register_forward_hook(lambda *_: calls.append(1))
    with recomputation.patched_recomputation(mode, with_reentry=adapters):
        model.Model._enable_gradient_checkpointing_if_supported(SimpleNamespace(model=made))
    made.train()
    torch.manual_seed(1)
    ids = torch.randint(3, 64, (2, 16))
    made(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return torch.cat([weight.grad.flatten() for weight in made.parameters() if weight.requires_grad]), len(calls)


@pytest.mark.parametrize("adapters", [False, True])
def test_gradients_are_the_same_whatever_is_recomputed(adapters: bool) -> None:
    import torch

    (kept, plain), (second, some), (whole, all_) = (
        gradients(mode, adapters=adapters) for mode in ("none", "selective", "full")
    )
    assert (plain, some, all_) == (3, 3 + 2, 3 + 3)
    assert kept.abs().max() > 1e-3
    assert torch.allclose(second, kept, rtol=0, atol=1e-7)
    assert torch.allclose(whole, kept, rtol=0, atol=1e-7)


def test_an_architecture_that_can_not_is_refused_by_name() -> None:
    def enable(**_settings: Any) -> None:
        raise ValueError("not compatible with gradient checkpointing")

    with pytest.raises(StageError, match="SimpleNamespace can't recompute") as caught:
        recomputation.recompute(SimpleNamespace(gradient_checkpointing_enable=enable), "full")
    assert "training.gradient_checkpointing=none" in str(caught.value.fix)
