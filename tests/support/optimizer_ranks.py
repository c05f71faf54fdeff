"""Each optimizer on real ranks of FSDP2: ``torchrun -m tests.support.optimizer_ranks FOLDER``.

Rank 0 prints by optimizer the largest difference of a weight from the same steps without sharding, by how much those
steps moved a weight, whether a training that goes on from its full state has the same bits as one that was never
stopped, and the bytes of the optimizer's state for each trained weight.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from sft.adapters.instructlab.rank.full_states import FullStates, Position
from sft.adapters.instructlab.rank.optimizer import optimizer_of
from sft.adapters.instructlab.settings import WorkerOptions
from tests.support.architectures import VOCABULARY, tiny
from tests.support.state_ranks import digests

OPTIMIZERS = ("adamw", "adafactor", "lion", "muon")
RATE, STEPS = 1e-3, 3


def training(name: str, *, is_sharded: bool) -> Any:
    """What `FullStates` takes of the library's accelerator."""
    torch.manual_seed(0)
    network = tiny("llama")
    if is_sharded:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in network.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(network, mesh=mesh)
    options = WorkerOptions(optimizer=name, decays_matrices_only=True)
    optimizer = optimizer_of(network, options, rate=RATE, decay=0.1, betas=(0.9, 0.95), eps=1e-8)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    return SimpleNamespace(
        model=SimpleNamespace(model=network), optimizer=SimpleNamespace(optimizer=optimizer), lr_scheduler=scheduler
    )


def step(made: Any, number: int, *, is_sharded: bool) -> None:
    """A step on 4 rows, which the ranks divide where the model is sharded."""
    rows = torch.randint(3, VOCABULARY, (4, 10), generator=torch.Generator().manual_seed(number))
    own = rows[dist.get_rank() :: dist.get_world_size()] if is_sharded else rows
    logits = made.model.model(input_ids=own, use_cache=False).logits[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), own[:, 1:].flatten()).backward()
    made.optimizer.optimizer.step()
    made.lr_scheduler.step()
    made.optimizer.optimizer.zero_grad()


def whole(made: Any) -> torch.Tensor:
    """All weights in one."""
    weights = [each.full_tensor() if isinstance(each, DTensor) else each for each in made.model.model.parameters()]
    return torch.cat([weight.detach().flatten() for weight in weights])


def facts(name: str, folder: Path) -> dict[str, Any]:
    """What the test looks at."""
    begins = whole(training(name, is_sharded=False))
    alone, sharded = training(name, is_sharded=False), training(name, is_sharded=True)
    for number in range(STEPS):
        step(alone, number, is_sharded=False)
        step(sharded, number, is_sharded=True)
    difference = (whole(alone) - whole(sharded)).abs().max().item()
    moved = (whole(alone) - begins).abs().max().item()
    state = sum(value.numel() * 4 for kinds in alone.optimizer.optimizer.state.values() for value in kinds.values())

    def states() -> FullStates:
        layout = {"num_ranks": dist.get_world_size()}
        return FullStates(folder / name, keep=1, state_id="x", layout=layout, seed=0, metrics=folder / "metrics")

    states().save(sharded, Position(step=STEPS))
    resumed = training(name, is_sharded=True)
    states().load(resumed)
    for made in (sharded, resumed):
        for number in range(STEPS, 2 * STEPS):
            step(made, number, is_sharded=True)
    return {
        "difference": difference,
        "moved": moved,
        "state_bytes": state / begins.numel(),
        "same": digests(sharded) == digests(resumed),
    }


def main() -> None:
    """Print the facts of each optimizer."""
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    found = {name: facts(name, Path(sys.argv[1])) for name in OPTIMIZERS}
    if dist.get_rank() == 0:
        sys.stdout.write(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
