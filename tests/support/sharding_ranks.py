"""What two ranks of FSDP do to buffers, gradients and weights: ``torchrun -m tests.support.sharding_ranks FILE``.

Models go through the training library's own accelerator, and so through accelerate's plugin: FSDP1 with and without
`rank.sharding`, and FSDP2 (`rank.fsdp2`). Rank 0 writes to FILE what the test compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp._flat_param import FlatParamHandle
from torch.distributed.tensor import DTensor

from sft.adapters.instructlab.rank import compilation, cpu, fixes, fsdp2, sharding
from sft.adapters.patched import patched
from tests.support.architectures import ROPES, VOCABULARY, installed, tiny, with_rope

NUM_MINIBATCHES, NUM_STEPS = 4, 12
STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD")


@contextmanager
def backend(
    precision: str,
    strategy: str = "FULL_SHARD",
    *,
    offload: bool = False,
    fixed: bool = True,
    version: int = 1,
    compiles: bool = False,
) -> Iterator[None]:
    """The training library on a CPU, with FSDP2, or with FSDP1, that with `rank.sharding` or without."""
    mixed = "bf16" if precision == "bf16" else "no"
    with ExitStack() as patches:
        patches.enter_context(cpu.cpu_as_accelerator())
        if version == 2:
            patches.enter_context(
                fsdp2.patched_accelerator(
                    precision=precision, strategy=strategy, cpu_offload_params=offload, compiles=compiles
                )
            )
        patches.enter_context(fixes.patched_options(mixed_precision=mixed, num_workers=0))
        patches.enter_context(patched((torch.Tensor, "pin_memory", lambda self: self)))  # there is no device to copy to
        torch.cpu.Stream.synchronize = lambda _: None  # which offloading waits for
        if fixed and version == 1:
            patches.enter_context(sharding.patched_sharding(mixed_precision=mixed, hybrid=False))
        yield


def wrapped(network: Any, strategy: str = "FULL_SHARD", *, offload: bool = False) -> tuple[Any, Any]:
    """`network` in FSDP, as the library wraps it, and the accelerator."""
    from accelerate.state import AcceleratorState, PartialState
    from instructlab.training import accelerator
    from instructlab.training.config import DistributedBackend

    for state in (AcceleratorState, PartialState):
        state._reset_state()
    adapters, layers = getattr(network, "peft_config", None), network._no_split_modules
    holder = SimpleNamespace(model=network, lora_config=adapters, _no_split_modules=layers)
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


def after_a_step(network: Any, *, fixed: bool = True, version: int = 1) -> dict[str, list[str]]:
    """Buffers that a step in bf16 has changed, and the types in which gradients are summed."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with backend("bf16", fixed=fixed, version=version):
        model, made = wrapped(network)
        backward(model, made, 0)
    after = {name.replace("_fsdp_wrapped_module.", ""): buffer for name, buffer in model.named_buffers()}
    assert before.keys() == after.keys()
    changed = [name for name, old in before.items() if old.dtype != after[name].dtype or not old.equal(after[name])]
    sums = {str(unit._handle._reduce_dtype) for unit in FSDP.fsdp_modules(model) if unit._handle}
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    sums |= {str(unit._get_fsdp_state()._fsdp_param_group._reduce_dtype) for unit in units}
    return {"buffers": changed, "sums": sorted(sums)}


def gradients(precision: str, strategy: str, *, each: bool = False, **how: Any) -> torch.Tensor:
    """This rank's gradient of all minibatches; with `each`, the sum of their gradients, one pass at a time."""
    total, offload = torch.zeros(()), how.get("offload", False)
    with backend(precision, strategy, **how), as_a_device() if offload and not how["fixed"] else nullcontext():
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
    parts = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.cat([(part.to_local() if isinstance(part, DTensor) else part).flatten().float() for part in parts])


def trained(
    network: Any, precision: str, strategy: str, version: int, *, compiles: bool = False
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Gradient norms of each step, and the weights at the end, which rank 0 has."""
    norms = []
    with backend(precision, strategy, version=version, compiles=compiles), fixes.patched_library():
        model, made = wrapped(network, strategy)
        optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-3, fused=True)
        for step in range(NUM_STEPS):
            backward(model, made, step)
            norms.append(float(made.clip_grad_norm_(model.parameters(), 1.0)))
            optimizer.step()
            optimizer.zero_grad()
        return norms, made.get_state_dict(model)


def apart(make: Callable[[], Any], precision: str, strategy: str = "FULL_SHARD") -> dict[str, float]:
    """How far FSDP1 and FSDP2 are apart after `NUM_STEPS`: relatively in norms, absolutely in weights."""
    (ones, one), (twos, two) = (trained(make(), precision, strategy, version) for version in (1, 2))
    if dist.get_rank() > 0:
        return {}
    assert one.keys() == two.keys()
    return {
        "norms": max(abs(a / b - 1) for a, b in zip(ones, twos, strict=True)),
        "weights": max(float((one[name].float() - two[name].float()).abs().max()) for name in one),
        "types": [str(kind) for kind in sorted({str(tensor.dtype) for tensor in two.values()})],
    }


def compiled_apart(make: Callable[[], Any], precision: str) -> dict[str, Any]:
    """How far compiled layers are from those that are not, absolutely in weights. What torch would compile, it runs."""
    _, plain = trained(make(), precision, "FULL_SHARD", 2)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with patched((torch, "compile", partial(torch.compile, backend="aot_eager"))), compilation.compiling():
        _, compiled = trained(make(), precision, "FULL_SHARD", 2, compiles=True)
    if dist.get_rank() > 0:
        return {}
    assert plain.keys() == compiled.keys()
    return {
        "weights": max(float((plain[name].float() - compiled[name].float()).abs().max()) for name in plain),
        "graphs": compilation.report().num_graphs,
        "breaks": compilation.report().breaks,
    }


def adapted(kind: torch.dtype) -> Any:
    """A model whose weights are frozen, of some type, with adapters that are trained."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)  # of the adapters
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], lora_dropout=0.0, task_type="CAUSAL_LM")
    network = get_peft_model(tiny("llama").to(torch.bfloat16).to(kind), config)
    network._no_split_modules = network.base_model.model._no_split_modules
    return network


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
        for version in (1, 2):
            found, case = after_a_step(make(), version=version), f"{name}, FSDP{version}"
            results["buffers"][case], results["sums"][case] = found["buffers"], found["sums"]
    results["unfixed"] = after_a_step(tiny("llama"), fixed=False)
    for strategy in STRATEGIES:
        results[f"apart {strategy}"] = apart(partial(tiny, "llama"), "fp32", strategy)
        for name, how in {"": {}, "unfixed ": {"fixed": False}, "FSDP2 ": {"version": 2}}.items():
            plain = gradients("fp32", strategy, **{**how, "fixed": True})
            offloaded = gradients("fp32", strategy, offload=True, **{"fixed": True, **how})
            results[f"offload {name}{strategy}"] = difference(offloaded, plain)
            one_by_one = gradients("bf16", strategy, each=True, **how)
            results[f"bf16 {name}{strategy}"] = difference(gradients("bf16", strategy, **how), one_by_one)
    results["apart tied"] = apart(partial(tiny, "llama", tie_word_embeddings=True), "fp32")
    results["apart bf16"] = apart(partial(tiny, "llama"), "bf16")
    for stored in (torch.float32, torch.bfloat16):
        results[f"apart adapters on {stored}"] = apart(partial(adapted, stored), "bf16")
    results["compiled llama"] = compiled_apart(partial(tiny, "llama"), "fp32")
    results["compiled adapters"] = compiled_apart(partial(adapted, torch.bfloat16), "bf16")
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
