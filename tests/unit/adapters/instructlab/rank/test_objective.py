"""Each objective and its gradient against its formula written out in torch, and the same in chunks."""

from __future__ import annotations

from typing import Any

import pytest

from sft.adapters.instructlab.rank import chunked_head, loss
from sft.adapters.instructlab.rank.objective import Objective, losses_of
from sft.adapters.instructlab.settings import WorkerOptions
from tests.support.architectures import VOCABULARY
from tests.unit.adapters.instructlab.rank.test_loss import gradients, padded, wrapped

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]
SETTINGS: dict[str, dict[str, Any]] = {
    "label_smoothing": {"label_smoothing": 0.2},
    "z_loss": {"z_loss": 1e-2},
    "dft": {"loss": "dft"},
    "smoothing and z": {"label_smoothing": 0.1, "z_loss": 1e-3},
    "dft and z": {"loss": "dft", "z_loss": 1e-2},
}


def formula(logits: Any, targets: Any, *, loss: str = "", label_smoothing: float = 0.0, z_loss: float = 0.0) -> Any:
    """The sum over the tokens that count, as papers and torch write it."""
    import torch

    counted, wanted = logits[targets != -100], targets[targets != -100]
    if loss == "dft":
        log_p = counted.log_softmax(-1).gather(1, wanted[:, None])
        summed = -(log_p.exp().detach() * log_p).sum()
    else:
        entropy = torch.nn.functional.cross_entropy
        summed = entropy(counted, wanted, reduction="sum", label_smoothing=label_smoothing)
    return summed + z_loss * counted.logsumexp(-1).square().sum()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_sum_and_its_gradient_are_those_of_the_formula(
    settings: dict[str, Any], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(loss, "AT_A_TIME", 3 * VOCABULARY)  # 10 rows are three times 3, and 1
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(10, VOCABULARY, generator=generator) * scale + 5).requires_grad_()
    targets = torch.tensor([5, -100, 0, 96, -100, 7, 8, 9, -100, 10])
    expected = formula(logits.double(), targets, **settings)
    (theirs,) = torch.autograd.grad(expected * 3, logits)
    found = loss.cross_entropy()(logits * 1, targets, losses_of(WorkerOptions(**settings)))
    (ours,) = torch.autograd.grad(found * 3, logits)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(ours, theirs.float(), rtol=1e-4, atol=1e-5)
    assert ours[[1, 4, 8]].eq(0).all()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_chunks_give_the_loss_and_the_gradients_of_the_whole_and_see_few_logits_at_a_time(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, minibatch, objective = wrapped("llama"), padded(), losses_of(WorkerOptions(**settings))
    assert objective is not None
    rows: list[int] = []

    def losses(logits: Any, targets: Any) -> Any:
        rows.append(len(logits))
        return objective(logits, targets)

    found = []
    for chunk in (loss.PLACES, 50):
        monkeypatch.setattr(chunked_head, "CHUNK", chunk)
        scaled, raw = loss.compute_loss(model, loss.inputs(minibatch, model, "cpu"), 2, 5, losses)
        found.append((float(raw.main_loss), gradients(model, scaled)))
    assert rows == [loss.PLACES, 50, 50, 28]
    (whole, of_whole), (summed, of_chunks) = found
    assert summed == pytest.approx(whole, rel=1e-6)
    for name, gradient in of_chunks.items():
        assert (gradient - of_whole[name]).abs().max() < 2e-6 * max(1, gradient.abs().max()), name


def test_plain_cross_entropy_is_computed_as_ever_and_is_what_an_objective_without_terms_gives() -> None:
    import torch

    assert losses_of(WorkerOptions()) is None
    logits = torch.randn(10, VOCABULARY, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([5, -100, 0, 96, -100, 7, 8, 9, -100, 10])
    ours, plain = logits.clone(), logits.clone()
    summed = Objective().over_logits(ours, targets)
    assert float(summed) == pytest.approx(float(loss.loss_over_logits(plain, targets)), rel=1e-6)
    assert torch.allclose(ours, plain, atol=1e-6)


def test_validation_stays_plain_cross_entropy() -> None:
    import torch
    from instructlab.training import main_ds, model

    objective = losses_of(WorkerOptions(loss="dft"))
    made, minibatch = wrapped("llama"), padded()
    with loss.patched_loss(objective), torch.no_grad():
        arguments = loss.inputs(minibatch, made, "cpu")
        _, trained = model.Model.compute_loss(made, arguments, 1, 1)
        assert main_ds.compute_validation_loss is loss.validation_loss
    _, validated = loss.compute_loss(made, arguments, 1, 1)
    logits = made.model(input_ids=minibatch["input_ids"]).logits.flatten(0, 1)
    targets = torch.nn.functional.pad(minibatch["labels"][:, 1:], (0, 1), value=-100).flatten()
    assert float(trained.main_loss) == pytest.approx(float(formula(logits, targets, loss="dft")), rel=1e-5)
    assert float(validated.main_loss) == pytest.approx(float(formula(logits, targets)), rel=1e-5)
