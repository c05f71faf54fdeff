"""The loss taken in chunks, against the one over all logits at once."""

from __future__ import annotations

from typing import Any

import pytest

from sft.adapters.instructlab.rank import chunked_head, loss
from sft.errors import StageError
from tests.support.architectures import VOCABULARY
from tests.unit.adapters.instructlab.rank.test_loss import ARCHITECTURES, gradients, padded, wrapped

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
WHOLE = {"gemma2", "granite", "cohere"}
"""Their logits are not their output layer's."""


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> Any:
    def of(size: int) -> None:
        monkeypatch.setattr(chunked_head, "CHUNK", size)

    return of


def passes(model: Any, minibatch: dict[str, Any]) -> tuple[float, dict[str, Any], list[int]]:
    """The sum of the losses, every gradient, and the rows of logits that the loss was given at a time."""
    rows, whole = [], loss.loss_over_logits
    loss.loss_over_logits = lambda logits, targets: rows.append(len(logits)) or whole(logits, targets)
    try:
        scaled, losses = loss.compute_loss(model, loss.inputs(minibatch, model, "cpu"), 2, 5)
        return float(losses.main_loss), gradients(model, scaled), rows
    finally:
        loss.loss_over_logits = whole


@pytest.mark.long
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chunks_give_the_loss_and_the_gradients_of_the_whole(architecture: str, chunks: Any) -> None:
    model, minibatch = wrapped(architecture), padded()
    expected, of_whole, rows = passes(model, minibatch)
    assert rows == [loss.PLACES]
    chunks(50)
    summed, of_chunks, rows = passes(model, minibatch)
    assert rows == ([loss.PLACES] if architecture in WHOLE else [50, 50, 28])
    assert summed == pytest.approx(expected, rel=1e-6)
    assert of_chunks.keys() == of_whole.keys()
    for name, gradient in of_chunks.items():
        assert (gradient - of_whole[name]).abs().max() < 2e-6 * max(1, gradient.abs().max()), name


def test_a_frozen_head_gets_no_gradient_and_validation_makes_none(chunks: Any) -> None:
    import torch

    model, minibatch = wrapped("llama"), padded()
    model.get_output_embeddings().weight.requires_grad_(False)
    expected, of_whole, _ = passes(model, minibatch)
    chunks(50)
    summed, of_chunks, _ = passes(model, minibatch)
    assert of_chunks.keys() == of_whole.keys()
    assert summed == pytest.approx(expected, rel=1e-6)
    with torch.no_grad():
        scaled, losses = loss.compute_loss(model, loss.inputs(minibatch, model, "cpu"), 1, 1)
    assert not scaled.requires_grad
    assert float(losses.main_loss) == pytest.approx(expected, rel=1e-6)


def test_in_bf16_the_weights_gradient_is_added_up_in_fp32(chunks: Any) -> None:
    import torch

    model, minibatch = wrapped("llama"), padded()
    _, exact, _ = passes(model, minibatch)
    model.model.to(torch.bfloat16)
    _, of_whole, _ = passes(model, minibatch)
    chunks(8)
    _, of_chunks, _ = passes(model, minibatch)

    def error(found: dict[str, Any]) -> float:
        return float((found["lm_head.weight"].float() - exact["lm_head.weight"]).norm())

    assert error(of_chunks) <= error(of_whole) * 1.1


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_refused(chunks: Any) -> None:
    model, minibatch = wrapped("llama"), padded()
    inner = model.model.forward

    def scaled(**arguments: Any) -> Any:
        output = inner(**arguments)
        output.logits = output.logits * 2
        return output

    model.model.forward = scaled
    chunks(50)
    with pytest.raises(StageError, match="LlamaForCausalLM changes the logits") as caught:
        passes(model, minibatch)
    assert "training.max_tokens_per_gpu to at most 50" in str(caught.value.fix)
    assert VOCABULARY > 50
