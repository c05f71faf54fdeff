"""What ranks that share a row compute, against the whole row: ``torchrun -m tests.support.context_ranks FILE``.

Rank 0 writes to FILE by case how far the loss and the sum of the ranks' gradients are from the whole row's, relative to
the largest, and how many bytes autograd keeps of a layer.
"""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from sft.adapters.instructlab.rank import chunked_head, loss, noise, varlen
from sft.adapters.instructlab.rank.context_parallel import SHARE
from sft.adapters.instructlab.rank.full_states import FullStates, Position
from sft.adapters.instructlab.rank.minibatches import collate_row
from sft.adapters.patched import patched
from sft.planning.row_packing import CAPPED, PACKED
from tests.support import flash, sharding_ranks, state_ranks
from tests.support.architectures import VOCABULARY, installed, tiny, with_rope

LENGTHS = (90, 11, 7, 7, 1)
"""Tokens of the samples of a row: one that four ranks share, and some in one rank's part of the row."""
COUNTED = 3
"""Of so many tokens in a row one counts for the loss, the first ones of samples and of ranks' parts among them."""


def holder(network: Any) -> Any:
    """`network` as the library's model, as far as the loss reads it."""
    from instructlab.training.model import Model

    model = Model.__new__(Model)
    model.model = network.train()
    model.is_gpt_oss = model.is_granitemoehybrid = False
    return model


def row(ranks: int) -> tuple[dict[str, Any], int]:
    """A minibatch for `ranks` ranks, and its loss tokens."""
    samples, random = [], torch.Generator().manual_seed(1)
    for length in LENGTHS:
        ids = torch.randint(3, VOCABULARY, (length,), generator=random)
        labels = [int(each) if place and place % COUNTED < 2 else -100 for place, each in enumerate(ids)]
        counted = sum(label != -100 for label in labels)
        samples.append({"input_ids": ids.tolist(), "labels": labels, "num_loss_counted_tokens": counted})
    total = sum(int(sample["num_loss_counted_tokens"]) for sample in samples)
    return collate_row(samples, total, token_budget=1024, context_parallel=ranks), total


def gradients(network: Any, ranks: int) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a row and its gradients, summed over `ranks` ranks that share it; 1 = it is not shared."""
    model = holder(network)
    network.zero_grad()
    if ranks > 1:
        SHARE.join(ranks)
    minibatch, total = row(ranks)
    scaled, _ = loss.compute_loss(model, loss.inputs(minibatch, model, "cpu"), 1, total)
    scaled.backward()
    found = {name: each.grad.clone() for name, each in network.named_parameters() if each.grad is not None}
    value = scaled.detach().clone()
    for each in (value, *found.values()) if ranks > 1 else ():
        dist.all_reduce(each)
        each *= ranks / dist.get_world_size()  # the groups computed the same
    SHARE.leave()
    return float(value), found


def apart(network: Any, ranks: int) -> float:
    """How far loss and gradients of a shared row are from those of a whole one."""
    varlen.select(network)
    (one, whole), (other, shared) = gradients(network, 1), gradients(network, ranks)
    largest = max(float(each.abs().max()) for each in whole.values())
    absent = {name: torch.zeros_like(each) for name, each in (whole | shared).items()}  # an expert nobody was sent to
    parts = [float(((absent | whole)[name] - (absent | shared)[name]).abs().max()) / largest for name in absent]
    return max(abs(one / other - 1), *parts)


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Attend by torch's kernel for packed rows, computed on the CPU, or sample by sample."""
    is_one = name == "on_kernel"
    with flash.varlen_on_a_cpu() if is_one else nullcontext(), patched((varlen.STATE, "has_kernel", is_one)):
        yield


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """The sizes of what this rank gives to the exchanges."""
    sent: list[int] = []
    exchange = dist.all_to_all_single

    def counting(received: torch.Tensor, parts: torch.Tensor, **how: Any) -> Any:
        sent.append(parts.nbytes)
        return exchange(received, parts, **how)

    with patched((dist, "all_to_all_single", counting)):
        yield sent


def even_noise() -> AbstractContextManager[None]:
    """Let NEFTune's noise be its size, the same in each run."""
    return patched((torch.Tensor, "uniform_", lambda self, *_: self.fill_(1.0)))


def sharded(version: int, strategy: str, *, offload: bool, ranks: int) -> torch.Tensor:
    """This rank's shards of the gradient of two minibatches, whose rows `ranks` ranks share."""
    with sharding_ranks.backend("fp32", strategy, offload=offload, version=version):
        network = tiny("llama")
        varlen.select(network)
        wrapped, made = sharding_ranks.wrapped(network, strategy, offload=offload)
        model = holder(wrapped)
        if ranks > 1:
            SHARE.join(ranks)
        minibatch, total = row(ranks)
        for _ in range(2):
            over = dist.get_world_size() if ranks > 1 else 1  # each of the others computes the whole row
            made.backward(loss.compute_loss(model, loss.inputs(minibatch, model, "cpu"), over, total)[0])
        SHARE.leave()
        return sharding_ranks.flat(wrapped)


def drawn(saved: int | None, resumed: int, folder: Path) -> list[float]:
    """A random number of each rank, in a run that `saved` ranks to a row began; None = it begins."""
    torch.manual_seed(0)  # as the library seeds every rank
    made = state_ranks.accelerator("fsdp2")

    def states(to_a_row: int) -> FullStates:
        layout = {"context_parallel": to_a_row} if to_a_row > 1 else {}
        return FullStates(folder, keep=1, state_id="id", layout=layout, seed=0, metrics=folder / "metrics.jsonl")

    torch.manual_seed(0 if saved is None else dist.get_rank() // saved)
    if saved is not None:
        states(saved).save(made, Position(step=1))
    states(resumed).load(made)
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, torch.rand(1).item())
    return every


def kept_bytes(ranks: int, num_key_heads: int) -> float:
    """Bytes for each token of a rank's part that autograd keeps of a layer."""
    sizes = []
    for layers in (3, 2):
        network = tiny(
            "llama", num_hidden_layers=layers, hidden_size=128, intermediate_size=384, head_dim=16,
            num_attention_heads=8, num_key_value_heads=num_key_heads,
        )  # fmt: skip
        varlen.select(network)
        own = {each.untyped_storage().data_ptr() for each in itertools.chain(network.parameters(), network.buffers())}
        kept: dict[int, Any] = {}

        def keep(tensor: Any, own: set[int] = own, kept: dict[int, Any] = kept) -> Any:
            if (place := tensor.untyped_storage().data_ptr()) not in own:
                kept[place] = tensor.untyped_storage()
            return tensor

        SHARE.join(ranks)
        ids = list(range(3, 67))
        sample = {"input_ids": ids, "labels": ids, "num_loss_counted_tokens": len(ids)}
        arguments = loss.inputs(
            collate_row([sample], len(ids), token_budget=64, context_parallel=ranks),
            SimpleNamespace(config=None),
            "cpu",
        )
        del arguments["places"], arguments["targets"]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(**arguments, use_cache=False)
        sizes.append(sum(storage.nbytes() for storage in kept.values()))
        SHARE.leave()
    return (sizes[0] - sizes[1]) / (64 / ranks)


def main() -> None:
    """Run every case and write the results."""
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    results: dict[str, Any] = {"apart": {}}
    for name in ("sample_by_sample", "on_kernel"):
        with kernel(name):
            for architecture in sorted((PACKED - CAPPED) & {*installed()}):
                results["apart"][f"{architecture}, {name}"] = apart(tiny(architecture), 4)
            results["apart"][f"pairs, {name}"] = apart(tiny("llama"), 2)
            more = tiny(
                "llama", hidden_size=96, num_attention_heads=12, num_key_value_heads=6
            )  # each of 6 twice, for 4 ranks
            results["apart"][f"repeated, {name}"] = apart(more, 4)
    recomputing = tiny("llama")
    with counted_bytes() as once:
        results["apart"]["counted"] = apart(recomputing, 4)
    recomputing.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with counted_bytes() as again:
        results["apart"]["recomputed"] = apart(recomputing, 4)
    results["sent"] = [sum(each) * 3 / 4 for each in (once, again)]  # a quarter stays
    with patched((chunked_head, "CHUNK", 5)):
        results["apart"]["chunked head"] = apart(tiny("llama"), 4)
    noisy = noise.add_noisy_embeddings(tiny("llama"), 5.0)
    with even_noise():
        results["apart"]["noise"] = apart(noisy, 4)
    noise.LENGTHS.are_wanted = False
    results["rope"] = {kind: apart(with_rope(kind), 4) for kind in ("longrope", "yarn", "llama3", "linear")}
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    results["rope"]["dynamic"] = apart(tiny("llama", rope_parameters=rope, max_position_embeddings=32), 4)
    results["kept"] = {f"{ranks} {keys}": kept_bytes(ranks, keys) for ranks in (1, 2, 4) for keys in (2, 4)}
    for version, strategy, offload in itertools.product((1, 2), ("FULL_SHARD", "NO_SHARD"), (False, True)):
        one, shared = (sharded(version, strategy, offload=offload, ranks=ranks) for ranks in (1, 4))
        case = f"FSDP{version} {strategy}{', offloaded' if offload else ''}"
        results["apart"][case] = sharding_ranks.difference(shared, one)
    folder = Path(sys.argv[1]).parent
    results["drawn"] = {
        str(name): drawn(*how, folder / f"states {name}")
        for name, how in {
            "whole rows": (None, 1), "shared rows": (None, 2), "two to four": (2, 4), "as before": (1, 1),
        }.items()
    }  # fmt: skip
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
