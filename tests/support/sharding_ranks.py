"""What two ranks of FSDP do to buffers and gradients: ``torchrun -m tests.support.sharding_ranks FILE``.

Models go through the training library's own accelerator, and so through accelerate's plugin, with and without
`rank.sharding`. Rank 0 writes to FILE what the test compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp._flat_param import FlatParamHandle

from sft.adapters.instructlab.rank import cpu, fixes, sharding
from sft.adapters.patched import patched
from tests.support.architectures import ROPES, VOCABULARY, installed, tiny, with_rope

NUM_MINIBATCHES = 4


@contextmanager
def library(precision: str, *, fixed: bool) -> Iterator[None]:
    """The training library on a CPU, with or without `rank.sharding`."""
    mixed = "bf16" if precision == "bf16" else "no"
    with ExitStack() as patches:
        patches.enter_context(cpu.cpu_as_accelerator())
        patches.enter_context(fixes.patched_options(mixed_precision=mixed, num_workers=0))
        patches.enter_context(patched((torch.Tensor, "pin_memory", lambda self: self)))  # there is no device to copy to
        torch.cpu.Stream.synchronize = lambda _: None  # which offloading waits for
        if fixed:
            patches.enter_context(sharding.patched_sharding(mixed_precision=mixed, hybrid=False))
        yield


def wrapped(network: Any, strategy: str = "FULL_SHARD", *, offload: bool = False) -> tuple[Any, Any]:
    """`network` in FSDP, as the library wraps it, and the accelerator."""
    from accelerate.state import AcceleratorState, PartialState
    from instructlab.training import accelerator
    from instructlab.training.config import DistributedBackend

    for state in (AcceleratorState, PartialState):
        state._reset_state()
    holder = SimpleNamespace(model=network, lora_config=None, _no_split_modules=network._no_split_modules)
    holder.children = network.children
    holder.update_model = lambda new: setattr(holder, "model", new)
    made = accelerator.Accelerator(
        model=holder,
        samples_per_gpu=1,
        grad_accum=1,
        train_loader=None,
        save_samples=0,
        distributed_framework=DistributedBackend.FSDP,
        fsdp_sharding_strategy=strategy,
        fsdp_cpu_offload_params=offload,
    )
    return holder.model, made.accelerator


def minibatch(number: int) -> torch.Tensor:
    """Tokens of a minibatch of this rank."""
    random = torch.Generator().manual_seed(100 * number + dist.get_rank())
    return torch.randint(3, VOCABULARY, (2, 12), generator=random)


def backward(model: Any, made: Any, number: int) -> None:
    """Forward and backward of a minibatch."""
    ids = minibatch(number)
    logits = model(input_ids=ids, use_cache=False).logits.float()
    made.backward(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))


def after_a_step(network: Any, *, fixed: bool) -> dict[str, list[str]]:
    """Buffers that a step in bf16 has changed, and the types in which gradients are summed."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with library("bf16", fixed=fixed):
        model, made = wrapped(network)
        backward(model, made, 0)
    after = {name.replace("_fsdp_wrapped_module.", ""): buffer for name, buffer in model.named_buffers()}
    assert before.keys() == after.keys()
    changed = [name for name, old in before.items() if old.dtype != after[name].dtype or not old.equal(after[name])]
    sums = {str(unit._handle._reduce_dtype) for unit in FSDP.fsdp_modules(model) if unit._handle}
    return {"buffers": changed, "sums": sorted(sums)}


def gradients(precision: str, strategy: str, *, fixed: bool, offload: bool = False, each: bool = False) -> torch.Tensor:
    """This rank's gradient of all minibatches; with `each`, the sum of their gradients, one pass at a time."""
    total = torch.zeros(())
    with library(precision, fixed=fixed), as_a_device() if offload and not fixed else nullcontext():
        model, made = wrapped(tiny("llama"), strategy, offload=offload)
        for step in range(2):  # the second step must not see the first one's gradient
            total = torch.zeros(())
            for number in range(NUM_MINIBATCHES):
                if each or number == 0:
                    model.zero_grad()
                backward(model, made, step * NUM_MINIBATCHES + number)
                total = total + flat(model) if each else flat(model)
    return total


def flat(model: Any) -> torch.Tensor:
    """The gradients of this rank's shards."""
    return torch.cat([parameter.grad.flatten().float() for parameter in model.parameters() if parameter.numel()])


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest one on any rank, relative to the largest gradient."""
    largest = torch.tensor([(one - other).abs().max() / other.abs().max()])
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return float(largest)


def as_a_device() -> AbstractContextManager[None]:
    """Let torch take an offloaded gradient for that of another device, as on a GPU: it can't add to it."""
    prepare = FlatParamHandle.prepare_gradient_for_backward

    def on_a_device(handle: Any) -> None:
        handle.flat_param.grad = None  # what torch's code leaves there
        prepare(handle)

    return patched((FlatParamHandle, "prepare_gradient_for_backward", on_a_device))


def main() -> None:
    """Run every check and write the results."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    results: dict[str, Any] = {"buffers": {}, "sums": {}}
    makers = {name: partial(tiny, name) for name in installed()}
    makers |= {f"rope: {kind}": partial(with_rope, kind) for kind in ROPES}
    for name, make in makers.items():
        found = after_a_step(make(), fixed=True)
        results["buffers"][name], results["sums"][name] = found["buffers"], found["sums"]
    results["unfixed"] = after_a_step(tiny("llama"), fixed=False)
    for strategy in ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD"):
        plain = gradients("fp32", strategy, fixed=True)
        for fixed in (True, False):
            name = strategy if fixed else f"unfixed {strategy}"
            offloaded = gradients("fp32", strategy, fixed=fixed, offload=True)
            results[f"offload {name}"] = difference(offloaded, plain)
            one_by_one = gradients("bf16", strategy, fixed=fixed, each=True)
            results[f"bf16 {name}"] = difference(gradients("bf16", strategy, fixed=fixed), one_by_one)
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
