"""A step on one rank of real FSDP: how often it waits for the device, and what it knows afterwards."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.patched import patched

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
WAITING = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__")
"""Methods of a tensor for which the host waits until the device is done."""


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def manager(one_rank: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The library's `BatchLossManager` around a tiny model in FSDP, with the fixes of a training."""
    from sft.adapters.instructlab.rank import fixes, loss, optimizer
    from sft.adapters.instructlab.settings import WorkerOptions
    from tests.support import sharding_ranks
    from tests.support.architectures import tiny

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    with sharding_ranks.backend("fp32", fixed=True), fixes.patched_library(), loss.patched_loss():
        from instructlab.training import batch_loss_manager

        network = tiny("llama")
        wrapped, accelerator = sharding_ranks.wrapped(network, "NO_SHARD")
        accelerator.model = wrapped
        accelerator.optimizer = optimizer.optimizer_of(
            wrapped, WorkerOptions(), rate=1e-2, decay=0.0, betas=(0.9, 0.95), eps=1e-8
        )
        accelerator.lr_scheduler = SimpleNamespace(step=lambda: None)
        holder = SimpleNamespace(
            config=network.config,
            module=network,
            is_gpt_oss=False,
            is_granitemoehybrid=False,
            get_output_embeddings=network.get_output_embeddings,
        )
        made = batch_loss_manager.BatchLossManager(functools.partial(_call, wrapped), accelerator, 1, 0)
        vars(made.model).update(vars(holder))
        made.model.compute_loss = functools.partial(loss.compute_loss, made.model)
        yield made


def _call(network: Any, *args: Any, **kwargs: Any) -> Any:
    return network(*args, **kwargs)


def batch(num_minibatches: int) -> list[dict[str, Any]]:
    import torch

    from tests.support.architectures import VOCABULARY

    random = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, VOCABULARY, (2, 8), generator=random) for _ in range(num_minibatches)]
    counts = {
        "num_samples": 2,
        "num_tokens": 16,
        "num_squares": 2 * 8**2,
        "total_length": 16,
        "batch_num_loss_counted_tokens": 14 * num_minibatches,
    }
    return [{"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids), **counts} for ids in rows]


def waits(step: Any) -> Counter[str]:
    """How often a tensor's value was asked for while `step` ran."""
    import torch

    counted: Counter[str] = Counter()

    def counting(name: str, method: Any) -> Any:
        def asked(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return method(*args, **kwargs)

        return asked

    with patched(*((torch.Tensor, name, counting(name, getattr(torch.Tensor, name))) for name in WAITING)):
        step()
    return counted


@pytest.mark.parametrize("num_minibatches", [1, 4])
def test_a_step_waits_for_the_device_once_however_many_minibatches_it_has(manager: Any, num_minibatches: int) -> None:
    from sft.adapters.instructlab.rank import batch as processing

    minibatches = batch(num_minibatches)
    on_the_device = iter([manager._prepare_model_inputs(each) for each in minibatches])
    manager._prepare_model_inputs = lambda _: next(on_the_device)  # which works on the host

    def step() -> None:
        processing.process(manager, minibatches, max_grad_norm=1.0, asked_to_stop=False)
        manager.accelerator.optimizer.step()
        manager.accelerator.optimizer.zero_grad()

    assert waits(step) == {"tolist": 1}


def test_upstream_waits_several_times(manager: Any) -> None:
    assert sum(waits(lambda: type(manager).process_batch(manager, batch(2))).values()) > 2, "batch.py can go"


def test_the_loss_of_a_batch_is_that_of_its_tokens_and_the_norm_that_of_its_gradients(manager: Any) -> None:
    import torch

    from sft.adapters.instructlab.rank import batch as processing

    minibatches, network = batch(3), manager.accelerator.model
    facts = processing.process(manager, minibatches, max_grad_norm=1e30, asked_to_stop=True)
    ids = torch.cat([each["input_ids"] for each in minibatches])
    with torch.no_grad():
        expected = network(input_ids=ids, labels=ids).loss
    norm = torch.cat([weight.grad.flatten() for weight in network.parameters() if weight.grad is not None]).norm()
    assert facts.loss == pytest.approx(float(expected), rel=1e-6)
    assert facts.gradient_norm == pytest.approx(float(norm), rel=1e-6)
    assert (facts.num_samples, facts.num_tokens, facts.num_padded_tokens, facts.stop) == (6, 48, 48, True)
    assert facts.num_squares == 6 * 8**2


def test_a_loss_in_chunks_gives_sharded_weights_the_same_gradient(
    manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from sft.adapters.instructlab.rank import batch as processing
    from sft.adapters.instructlab.rank import chunked_head

    network, gradients = manager.accelerator.model, []
    for size in (chunked_head.CHUNK, 50):
        monkeypatch.setattr(chunked_head, "CHUNK", size)
        network.zero_grad()
        processing.process(manager, batch(2), max_grad_norm=1e30, asked_to_stop=False)
        gradients.append(torch.cat([weight.grad.flatten() for weight in network.parameters()]))
    assert not torch.equal(*gradients)
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-6)
