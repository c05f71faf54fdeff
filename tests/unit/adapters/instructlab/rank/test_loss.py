"""The loss where it counts, against the library's own over every logit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank import loss
from sft.adapters.instructlab.rank.minibatches import collate_row
from sft.errors import StageError
from tests.support.architectures import SHAPE, VOCABULARY

pytestmark = [
    pytest.mark.slow,  # imports torch
    # Warned while the library and what it pulls in are imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
OLDER = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": SHAPE,
    "qwen3": {**SHAPE, "tie_word_embeddings": True},
    "llama": SHAPE,
    "mistral": {**SHAPE, "sliding_window": 5},
    "gemma2": {**SHAPE, "final_logit_softcapping": 2.0, "sliding_window": 5},
    "gemma3_text": {**SHAPE, "sliding_window": 5},
    "phi3": SHAPE,
    "granite": {**SHAPE, "logits_scaling": 3.0},
    "cohere": {**SHAPE, "logit_scale": 0.3},
    "gpt_neox": SHAPE,
    "mixtral": {**SHAPE, "num_local_experts": 4},
    "opt": {**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
    "gpt2": {**OLDER, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "bloom": {**OLDER, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    "mamba": {**SHAPE, "state_size": 4},
}


def wrapped(architecture: str, **settings: Any) -> Any:
    """A random model of that architecture in the library's wrapper."""
    import torch
    from instructlab.training.model import Model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture], **settings)
    model = Model.__new__(Model)
    model.model = AutoModelForCausalLM.from_config(config).train()
    model.is_gpt_oss = model.is_granitemoehybrid = False
    return model


def padded() -> dict[str, Any]:
    """Three samples of unequal length; some tokens of the first two count."""
    import torch
    from instructlab.training.sampler import padded_mb_collate_fn

    samples = []
    for num_tokens, counted in ((11, {4, 5, 10}), (7, {3, 6}), (2, set[int]())):
        ids = torch.randint(3, VOCABULARY, (num_tokens,), generator=torch.Generator().manual_seed(num_tokens))
        labels = [int(token) if place in counted else -100 for place, token in enumerate(ids)]
        samples.append({"input_ids": ids.tolist(), "labels": labels, "num_loss_counted_tokens": len(counted)})
    return dict(padded_mb_collate_fn(samples, 5))


def gradients(model: Any, scaled: Any) -> dict[str, Any]:
    model.model.zero_grad()
    scaled.backward()
    return {name: p.grad.clone() for name, p in model.model.named_parameters() if p.grad is not None}


def upstream(model: Any, minibatch: dict[str, Any]) -> tuple[Any, Any]:
    names = ("input_ids", "labels", "attention_mask", "position_ids")
    return model.compute_loss({name: minibatch[name] for name in names if name in minibatch}, 2, 5)  # type: ignore[no-any-return]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_every_gradient_are_the_librarys(architecture: str) -> None:
    import torch

    model, minibatch = wrapped(architecture), padded()
    expected, raw = upstream(model, minibatch)
    theirs = gradients(model, expected)
    found, losses = loss.compute_loss(model, loss.inputs(minibatch, model, "cpu"), 2, 5)
    ours = gradients(model, found)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses.main_loss.item() == pytest.approx(raw.main_loss.item(), rel=1e-5)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_cross_entropy_and_its_gradient_are_torchs(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(loss, "AT_A_TIME", 3 * VOCABULARY)  # 10 rows are three times 3, and 1
    logits = (torch.randn(10, VOCABULARY, generator=torch.Generator().manual_seed(0)) * scale).requires_grad_()
    targets = torch.tensor([5, -100, 0, 96, -100, 7, 8, 9, -100, 10])
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    (theirs,) = torch.autograd.grad(expected * 3, logits)
    found = loss.cross_entropy()(logits * 1, targets)
    (ours,) = torch.autograd.grad(found * 3, logits)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert ours[[1, 4, 8]].eq(0).all()


def test_logits_that_are_needed_again_are_not_overwritten_in_silence() -> None:
    import torch

    logits = torch.randn(4, VOCABULARY, requires_grad=True).exp()  # its own backward pass takes its result
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.cross_entropy()(logits, torch.tensor([1, 2, 3, 4])).backward()


def test_a_model_that_takes_its_logits_otherwise_is_named() -> None:
    model, minibatch = wrapped("qwen2"), padded()
    model.model.forward = lambda **_: SimpleNamespace(logits=minibatch["input_ids"].new_zeros(1, 2, VOCABULARY))
    with pytest.raises(StageError, match="Qwen2ForCausalLM: its logits"):
        loss.compute_loss(model, loss.inputs(minibatch, model, "cpu"), 1, 5)


def test_samples_in_one_row_give_the_librarys_loss_too() -> None:
    import torch

    rows = padded()
    samples = [
        {"input_ids": ids[mask.bool()].tolist(), "labels": labels[mask.bool()].tolist(), "num_loss_counted_tokens": 1}
        for ids, labels, mask in zip(rows["input_ids"], rows["labels"], rows["attention_mask"], strict=True)
    ]
    model, minibatch = wrapped("llama"), collate_row(samples, 5, token_budget=100)
    expected, _ = upstream(model, minibatch)
    found, _ = loss.compute_loss(model, loss.inputs(minibatch, model, "cpu"), 2, 5)
    alone, _ = loss.compute_loss(model, loss.inputs(rows, model, "cpu"), 2, 5)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert alone.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.isfinite(found)


def test_the_head_sees_only_what_counts_in_multiples() -> None:
    seen: list[tuple[int, ...]] = []
    model, minibatch = wrapped("qwen2"), padded()
    model.get_output_embeddings().register_forward_hook(lambda _h, _i, logits: seen.append(tuple(logits.shape)))
    taken = loss.inputs(minibatch, model, "cpu")
    loss.compute_loss(model, taken, 1, 5)
    model(input_ids=minibatch["input_ids"])
    assert seen == [(1, loss.PLACES, VOCABULARY), (3, 11, VOCABULARY)]
    assert taken["places"][:5].tolist() == [3, 4, 9, 11 + 2, 11 + 5]
    assert (taken["targets"] != -100).sum() == 5


def test_a_minibatch_in_which_nothing_counts_changes_nothing() -> None:
    model, minibatch = wrapped("qwen2"), padded()
    minibatch["labels"] = minibatch["labels"].new_full(minibatch["labels"].shape, -100)
    found, losses = loss.compute_loss(model, loss.inputs(minibatch, model, "cpu"), 2, 5)
    assert losses.main_loss.item() == 0
    assert all(not gradient.any() for gradient in gradients(model, found).values())


def test_a_routers_loss_is_added_and_its_tokens_stay_masked() -> None:
    model, minibatch = wrapped("mixtral", output_router_logits=True), padded()
    model.is_gpt_oss = True  # the library takes the routers' loss of these alone
    expected, raw = upstream(model, minibatch)
    found, losses = loss.compute_loss(model, loss.inputs(minibatch, model, "cpu"), 2, 5)
    assert losses.aux_loss.item() == pytest.approx(raw.aux_loss.item(), rel=1e-6)
    assert losses.aux_loss.item() > 0
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_validation_is_the_mean_over_every_ranks_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed as dist

    monkeypatch.setattr(dist, "all_reduce", lambda totals: totals.mul_(4))  # four ranks with the same samples
    model, minibatch = wrapped("llama"), padded()
    _, raw = upstream(model, minibatch)
    found = loss.validation_loss(model, [[minibatch], [minibatch, minibatch]], "cpu")
    assert found["val_loss"] == pytest.approx(raw.main_loss.item() / 5, rel=1e-5)
    assert found["val_num_tokens"] == 4 * 3 * 5
    assert model.model.training


def test_the_library_uses_ours_while_the_block_runs() -> None:
    import torch
    from instructlab.training import main_ds
    from instructlab.training.model import Model

    manager = SimpleNamespace(model=wrapped("qwen2"), torch_device=torch.device("cpu"))
    before = Model.compute_loss
    with loss.patched_loss():
        taken = main_ds.BatchLossManager._prepare_model_inputs(manager, padded())
        assert set(taken) == {"input_ids", "places", "targets"}
        assert manager.model.compute_loss(taken, 2, 5)[0].item() > 0
    assert Model.compute_loss is before
