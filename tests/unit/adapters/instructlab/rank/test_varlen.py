"""Losses and gradients over a packed row are those over padded samples."""

from __future__ import annotations

from typing import Any

import pytest

from sft.adapters.instructlab.rank import loss, varlen
from sft.adapters.instructlab.rank.minibatches import collate_row
from sft.adapters.instructlab.settings import WorkerOptions
from sft.errors import StageError
from tests.support import flash
from tests.support.architectures import VOCABULARY, tiny

pytestmark = [
    pytest.mark.slow,  # imports torch
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
LENGTHS = (40, 11, 11, 7, 1)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "STATE", varlen.State())


def minibatches() -> tuple[dict[str, Any], dict[str, Any]]:
    """The same samples, padded and packed."""
    import torch
    from instructlab.training.sampler import padded_mb_collate_fn

    random, samples = torch.Generator().manual_seed(1), []
    for length in LENGTHS:
        ids = torch.randint(3, VOCABULARY, (length,), generator=random).tolist()
        samples.append({"input_ids": ids, "labels": [-100, *ids[1:]], "num_loss_counted_tokens": max(1, length - 1)})
    return dict(padded_mb_collate_fn(samples, 65)), collate_row(samples, 65, token_budget=100)


def passes(model: Any, minibatch: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """The loss and every gradient."""
    model.is_gpt_oss = model.is_granitemoehybrid = False
    model.zero_grad()
    scaled, _ = loss.compute_loss(model, loss.inputs(minibatch, model, "cpu"), 1, 65)
    scaled.backward()
    return scaled.item(), {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("has_kernel", [False, True])
@pytest.mark.parametrize("architecture", ["qwen2", "mistral", "gemma3_text", "deepseek_v3"])
def test_loss_and_every_gradient_are_those_of_padded_samples(architecture: str, has_kernel: bool) -> None:
    model, (padded, packed) = tiny(architecture, initializer_range=0.02), minibatches()
    expected, theirs = passes(model, padded)
    varlen.select(model)
    varlen.STATE.has_kernel = has_kernel
    with flash.varlen_on_a_cpu() as windows:
        found, ours = passes(model, packed)
    assert found == pytest.approx(expected, rel=1e-6)
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-6
    assert set(windows) <= {(-1, 0), (4, 0)}  # all before it, or 5 tokens, itself included
    assert ((4, 0) in windows) is (has_kernel and architecture in {"mistral", "gemma3_text"})


@pytest.mark.parametrize("has_kernel", [False, True])
def test_it_is_so_in_bf16_within_its_noise(has_kernel: bool) -> None:
    import torch

    model, (padded, packed) = tiny("mistral", initializer_range=0.02), minibatches()
    exact, _ = passes(model, padded)
    with torch.autocast("cpu", torch.bfloat16):
        _, theirs = passes(model, padded)
        varlen.select(model)
        varlen.STATE.has_kernel = has_kernel
        with flash.varlen_on_a_cpu():
            found, ours = passes(model, packed)
    assert abs(found - exact) < 2e-4 * exact
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() < 0.05 * theirs[name].norm() + 1e-6, name


def test_another_rows_samples_are_refused() -> None:
    model, (_, packed) = tiny("llama"), minibatches()
    varlen.select(model)
    arguments = loss.inputs(packed, model, "cpu")
    arguments.pop("places"), arguments.pop("targets")
    varlen.STATE.lengths = [1, 2]
    with pytest.raises(StageError, match="a row of 80 tokens came to attention, whose samples have 3"):
        model(**arguments)


def test_a_model_whose_layers_keep_their_attention_is_refused() -> None:
    model = tiny("llama")
    model._can_set_attn_implementation = lambda: False
    with pytest.raises(StageError, match="LlamaForCausalLM: its layers keep their own attention"):
        varlen.select(model)


def test_what_a_rank_attends_with_is_told() -> None:
    assert varlen.in_use(WorkerOptions(attention="varlen")) == "varlen, over padded samples"
    assert varlen.in_use(WorkerOptions(attention="flash_attention", packs_rows=True)) == (
        "flash_attention, over packed rows"
    )
    packs = WorkerOptions(attention="varlen", packs_rows=True)
    assert varlen.in_use(packs).endswith("scaled_dot_product_attention, over packed rows sample by sample")
    assert varlen.slower(packs) == []
    on_gpu = WorkerOptions(attention="varlen", packs_rows=True, on_gpu=True)
    assert "needs bf16 and compute capability 8.0" in "".join(varlen.slower(on_gpu))
    varlen.STATE.has_kernel = True
    assert varlen.slower(on_gpu) == []
    assert varlen.in_use(packs) == "torch.nn.attention.varlen.varlen_attn, over packed rows"
