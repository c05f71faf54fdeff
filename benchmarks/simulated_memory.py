"""Peaks of a GPU's memory, counted on tensors without data, against the estimate of `sft plan`. Needs no GPU.

    python benchmarks/simulated_memory.py [--layers 28]

Two optimizer steps of two minibatches each go through what a rank runs: the library's model and `Accelerator`, FSDP
over a group whose other ranks are pretended, our loss, backward pass and AdamW. Every tensor is a fake one (torch's
`FakeTensorMode`), of which only the size exists, and every storage is counted from its making to its end, as
``torch.cuda.max_memory_allocated`` counts on a GPU. What that leaves out: CUDA's context and NCCL's buffers, what the
allocator rounds up, workspaces of kernels, and how far a GPU's kernels take other memory than a CPU's. The shape is
that of Qwen2.5-1.5B; ``--layers`` makes it smaller. Asked for, of measured peaks: within 15%.
"""

from __future__ import annotations

import argparse
import os
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from utilisation import SHAPE

from sft.adapters.instructlab.rank import cpu, fixes, fsdp2, lora, loss, recomputation, sharding
from sft.adapters.instructlab.settings import WorkerOptions
from sft.config.schema import BaseQuantization, GradientCheckpointing, LoraConfig, ShardingStrategy
from sft.planning import memory
from sft.planning.adapters import kept_by, num_adapter_parameters, num_saved_whole, plain, quantized_by
from sft.planning.model_shape import shape_of

SAMPLE_TOKENS, LORA_RANK = 256, 16
NF4 = {"quantize": BaseQuantization.nf4}
EXPERTS = {"mixtral": {"intermediate_size": 2240, "num_local_experts": 4, "num_experts_per_tok": 2}}


@dataclass(frozen=True)
class Case:
    """How one rank trains; `stored` is the checkpoint's precision, `version` FSDP's."""

    strategy: str = "FULL_SHARD"
    ranks: int = 8
    precision: str = "bf16"
    recomputes: str = "full"
    num_tokens: int = 10_240
    loss_share: float = 0.5
    adapters: bool = False
    lora: Mapping[str, Any] = field(default_factory=dict)
    family: str = "qwen2"
    tied: bool = True
    stored: str = "bfloat16"
    version: int = 2

    @property
    def trains(self) -> str:
        """What is trained, in a word or two."""
        if not self.adapters:
            return "all"
        what = ["experts"] if self.family == "mixtral" else [key for key in self.lora if key != "dropout"]
        return "adapters" if not what else f"{what[0]}"

    @property
    def num_places(self) -> int:
        """Tokens with logits."""
        return int(self.num_tokens * self.loss_share) // loss.PLACES * loss.PLACES


CASES = (
    Case("NO_SHARD", 1),
    Case("NO_SHARD", 1, loss_share=0.05),
    Case("NO_SHARD", 1, recomputes="none"),
    Case("NO_SHARD", 1, recomputes="selective"),
    Case("NO_SHARD", 1, precision="fp32"),
    Case("NO_SHARD", 1, adapters=True),
    Case("NO_SHARD", 1, adapters=True, loss_share=0.05),
    Case("NO_SHARD", 1, adapters=True, stored="float32"),
    Case("FULL_SHARD", 2),
    Case("FULL_SHARD", 8),
    Case("FULL_SHARD", 8, loss_share=0.05),
    Case("FULL_SHARD", 8, num_tokens=1024),
    Case("FULL_SHARD", 8, recomputes="none"),
    Case("FULL_SHARD", 8, precision="fp32"),
    Case("FULL_SHARD", 8, adapters=True, recomputes="none"),
    Case("FULL_SHARD", 8, recomputes="selective"),
    Case("FULL_SHARD", 8, adapters=True, recomputes="selective"),
    Case("SHARD_GRAD_OP", 8),
    Case("NO_SHARD", 8),
    Case("NO_SHARD", 1, precision="fp32", adapters=True),
    Case("NO_SHARD", 1, precision="fp32", version=1),
    Case("NO_SHARD", 1, adapters=True, lora={"use_dora": True}),
    Case("FULL_SHARD", 8, adapters=True, recomputes="none", lora={"use_dora": True, "dropout": 0.0}),
    Case("FULL_SHARD", 8, adapters=True, recomputes="none", lora={"target_modules": ["q_proj", "v_proj"]}),
    Case("FULL_SHARD", 8, adapters=True, lora={"modules_to_save": ["embed_tokens", "lm_head"]}, tied=False),
    Case("NO_SHARD", 1, adapters=True, lora={"modules_to_save": ["embed_tokens", "lm_head"]}, tied=False),
    Case("FULL_SHARD", 8, adapters=True, lora={"dropout": 0.0}, family="mixtral"),
    Case("NO_SHARD", 1, adapters=True, recomputes="none", lora={"dropout": 0.0}, family="mixtral"),
    Case("NO_SHARD", 1, adapters=True, lora=NF4),
    Case("NO_SHARD", 1, adapters=True, lora=NF4, loss_share=0.05),
    Case("NO_SHARD", 1, adapters=True, lora=NF4, num_tokens=1024, recomputes="none"),
    Case("FULL_SHARD", 8, adapters=True, lora={"quantize": BaseQuantization.nf4_double_quant, "dropout": 0.0}),
    Case("FULL_SHARD", 8, adapters=True, lora=NF4, num_tokens=1024, tied=False),
    Case("FULL_SHARD", 8, adapters=True, num_tokens=256, tied=False),
    Case("SHARD_GRAD_OP", 8, adapters=True, lora=NF4, num_tokens=1024, tied=False),
    Case("NO_SHARD", 1, adapters=True, precision="fp32", lora=NF4, num_tokens=2048),
    Case("NO_SHARD", 1, adapters=True, version=1),
    Case("FULL_SHARD", 8, version=1),
    Case("FULL_SHARD", 8, adapters=True, recomputes="none", version=1),
)


class Counted(TorchDispatchMode):  # type: ignore[misc]
    """Bytes of all storages that live, and the most that there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it has no storage; what it makes of the operation comes here again
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = 0
                    weakref.finalize(storage, self._forget, storage._cdata)
                self.resized(storage, storage.nbytes())
        return result

    def resized(self, storage: Any, num_bytes: int) -> None:
        """Note a storage's new size, if it is one that counts."""
        if storage._cdata in self._sizes:
            self.now += num_bytes - self._sizes[storage._cdata]
            self._sizes[storage._cdata] = num_bytes
            self.peak = max(self.peak, self.now)

    def _forget(self, storage: int) -> None:
        self.now -= self._sizes.pop(storage)


@contextmanager
def counted() -> Iterator[Counted]:
    """Count until the block ends; FSDP frees and takes memory by resizing storages, which is no operation."""
    resize, mode = torch.UntypedStorage.resize_, Counted()

    def resize_(storage: Any, num_bytes: int) -> None:
        resize(storage, num_bytes)
        mode.resized(storage, num_bytes)

    with mock.patch.object(torch.UntypedStorage, "resize_", resize_), mode:
        yield mode


@contextmanager
def pretended_ranks(num_ranks: int) -> Iterator[None]:
    """Rank 0 of a group whose collectives do nothing."""
    from accelerate.state import AcceleratorState, PartialState
    from torch.testing._internal.distributed.fake_pg import FakeStore

    sizes = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
    with mock.patch.dict(os.environ, {**sizes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}):
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
        try:
            yield
        finally:
            dist.destroy_process_group()
            AcceleratorState._reset_state()
            PartialState._reset_state()


def on_the_meta_device(config: Mapping[str, Any], case: Case) -> Any:
    """Return the library's model, as it makes it of a checkpoint."""
    import peft
    from instructlab.training.config import DistributedBackend
    from instructlab.training.model import CausalLMModel
    from transformers import AutoConfig, AutoModelForCausalLM

    model = CausalLMModel.__new__(CausalLMModel)
    model.distributed_framework, model.lora_config = DistributedBackend.FSDP, None
    model.is_gpt_oss = model.is_granitemoehybrid = False
    model.reconcile_tokenizer = lambda: None
    if case.adapters:
        model.lora_config = peft.LoraConfig()  # that there is one; `rank.lora` makes its own
    with torch.device("meta"):
        loaded = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=getattr(torch, case.stored))
        model.model = loaded
        model._post_model_init()
    model._enable_gradient_checkpointing_if_supported()
    return model


def materialise(module: torch.nn.Module) -> None:
    """Put tensors of the current mode into the places of those on the meta device; tied ones stay tied."""
    made: dict[int, tuple[Any, Any]] = {}

    def like(tensor: Any) -> Any:
        if id(tensor) not in made:
            new = torch.empty(tensor.shape, dtype=tensor.dtype)
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            made[id(tensor)] = tensor, torch.nn.Parameter(new, tensor.requires_grad) if is_parameter else new
        return made[id(tensor)][1]

    for part in module.modules():
        for held in (part._parameters, part._buffers, vars(part)):
            for name, tensor in list(held.items()):
                if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                    held[name] = like(tensor)


def dropout_as_on_a_gpu(tensor: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Keep a byte for each value that is left, as CUDA does; a CPU keeps the factors in the tensor's own type."""
    assert not inplace
    return torch.native_dropout(tensor, p, training)[0]


def counted_peak(config: Mapping[str, Any], case: Case) -> int:
    """Bytes of one rank at its peak, from the first optimizer step's end to the second's."""
    from instructlab.training.accelerator import Accelerator
    from instructlab.training.config import DistributedBackend
    from instructlab.training.model import setup_optimizer
    from torch._subclasses.fake_tensor import FakeTensorMode

    mixed = "bf16" if case.precision == "bf16" else "no"
    with ExitStack() as stack:
        stack.enter_context(pretended_ranks(case.ranks))
        stack.enter_context(cpu.cpu_as_accelerator())
        stack.enter_context(mock.patch("torch.nn.functional.dropout", dropout_as_on_a_gpu))
        stack.enter_context(mock.patch.object(loss, "AT_A_TIME", case.num_places * config["vocab_size"]))  # as on a GPU
        if case.version == 2:
            fsdp = fsdp2.patched_accelerator(precision=case.precision, strategy=case.strategy, cpu_offload_params=False)
        else:
            fsdp = sharding.patched_sharding(mixed_precision=mixed, hybrid=False)
        stack.enter_context(fsdp)
        stack.enter_context(
            fixes.patched_options(mixed_precision=mixed, num_workers=0, narrows_frozen=case.version == 2)
        )
        stack.enter_context(fixes.patched_library())
        with_reentry = case.adapters and case.version == 1
        stack.enter_context(recomputation.patched_recomputation(case.recomputes, with_reentry=with_reentry))
        if case.adapters:
            stack.enter_context(lora.lora_training(WorkerOptions(lora=plain(lora_of(case))), None))
        if "quantize" in case.lora:
            from bitsandbytes.functional import quantize_blockwise

            quantize_blockwise(torch.ones(256))  # makes what 8 bits mean once, which can't be done on the meta device
        model = on_the_meta_device(config, case)
        ranks = fsdp2.mesh(case.strategy, "cpu")  # reads tensors of its own, which fake ones can't be
        stack.enter_context(mock.patch.object(fsdp2, "mesh", return_value=ranks))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        seen = stack.enter_context(counted())
        materialise(model.model)
        accelerator = Accelerator(
            model=model,
            samples_per_gpu=1,
            grad_accum=1,
            train_loader=[None],
            save_samples=0,
            distributed_framework=DistributedBackend.FSDP,
            fsdp_sharding_strategy=case.strategy,
        )
        optimizer = setup_optimizer(model=model, cpu_offload=False, name=None, learning_rate=1e-4)
        model.train()
        for _ in range(2):
            seen.peak = 0
            for _ in range(2):
                places = torch.zeros(case.num_places, dtype=torch.long)
                ids = torch.zeros(case.num_tokens // SAMPLE_TOKENS, SAMPLE_TOKENS, dtype=torch.long)
                taken = {"input_ids": ids, "places": places, "targets": places.clone()}
                scaled, _ = loss.compute_loss(model, taken, case.ranks, case.num_tokens)
                accelerator.accelerator.backward(scaled)
                del scaled
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return seen.peak


def lora_of(case: Case) -> LoraConfig:
    """Return the settings of a case's adapters."""
    return LoraConfig(**{"rank": LORA_RANK, **case.lora}) if case.adapters else LoraConfig()


def estimated_peak(config: Mapping[str, Any], case: Case) -> int:
    """Return what `sft.planning.memory` says of the same, without its allowance for CUDA's context."""
    shape = shape_of({**config, "dtype": case.stored})
    if shape is None:
        raise SystemExit("sft.planning.model_shape does not know this architecture")
    adapters = lora_of(case)
    whole = num_saved_whole(adapters, shape, None)
    setup = memory.Setup(
        ranks=case.ranks,
        ranks_per_node=case.ranks,
        token_budget=case.num_tokens,
        loss_share=case.num_places / case.num_tokens,
        value_bytes=2 if case.precision == "bf16" else 4,
        gradient_checkpointing=GradientCheckpointing(case.recomputes),
        num_trained=num_adapter_parameters(adapters, shape) + whole if case.adapters else None,
        num_whole=whole,
        trains_head="lm_head" in adapters.modules_to_save,
        adapters=kept_by(adapters, shape) if case.adapters else None,
        adapter_dropout=adapters.dropout > 0,
        quantized=quantized_by(adapters, shape),
        on_gpu=True,
        fsdp_version=case.version,
    )
    return memory.peak_bytes(shape, ShardingStrategy(case.strategy), setup) - memory.GPU_OVERHEAD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    num_layers = parser.parse_args().layers
    warnings.simplefilter("ignore")
    config = {**SHAPE, "model_type": "qwen2", "num_hidden_layers": num_layers}
    print(f"python benchmarks/simulated_memory.py --layers {num_layers}")
    print(
        f"FSDP {'strategy':<14}{'ranks':>5} {'precision':<10}{'checkpoint':<11}{'trains':<16}{'recomputes':<11}"
        f"{'tokens':>7}{'for the loss':>13}{'counted':>12}{'estimated':>12}{'ratio':>7}"
    )
    for case in CASES:
        of = {**config, **EXPERTS.get(case.family, {}), "model_type": case.family, "tie_word_embeddings": case.tied}
        peak, estimate = counted_peak(of, case), estimated_peak(of, case)
        print(
            f"{case.version:<5}{case.strategy:<14}{case.ranks:>5} {case.precision:<10}{case.stored:<11}"
            f"{case.trains:<16}{case.recomputes:<11}"
            f"{case.num_tokens:>7}{case.loss_share:>13.0%}{peak / 2**30:>8.2f} GiB{estimate / 2**30:>8.2f} GiB"
            f"{estimate / peak:>7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
