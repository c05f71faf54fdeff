"""Saves and loads full states on real ranks of FSDP: ``torchrun -m tests.support.state_ranks FOLDER save|load``.

`save` trains each kind of model on the ranks it is given and saves its state. `load` gives a new model that state, on
any number of ranks, and rank 0 prints by kind the digest of all weights and of the whole optimizer state, whether the
random numbers of each rank are its own, and the largest difference of the loss that three more steps make.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import ShardingStrategy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from sft.adapters.instructlab.rank.full_states import FullStates, Position

KINDS = {
    "full": ("FULL_SHARD", False),
    "grad_op": ("SHARD_GRAD_OP", False),
    "no_shard": ("NO_SHARD", False),
    "frozen": ("FULL_SHARD", True),
    "fsdp2": ("FSDP2", False),
    "fsdp2 frozen": ("FSDP2", True),
}
"""Sharding strategy of FSDP1, or FSDP2, and whether only a part of the model is trained, by name."""
TAKES = {"full": "fsdp2", "fsdp2": "full"}
"""Kinds that can load each other's states: the version of FSDP is not in a state."""


class Block(nn.Sequential):
    """A layer whose sizes no number of ranks divides."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(7, 13), nn.ReLU(), nn.Linear(13, 7))


class Network(nn.Module):
    """A language model with a tied head and a buffer that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(17, 7)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(7, 17, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("num_calls", torch.zeros(3))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        logits: torch.Tensor = self.head(hidden)
        return logits


def accelerator(kind: str) -> Any:
    """What `FullStates` takes of the library's accelerator."""
    strategy, is_frozen = KINDS[kind]
    torch.manual_seed(0)
    network = Network()
    for parameter in (*network.embedding.parameters(), *network.blocks[0].parameters()) if is_frozen else ():
        parameter.requires_grad_(requires_grad=False)
    model: nn.Module
    if strategy == "FSDP2":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for block in network.blocks:
            fully_shard(block, mesh=mesh)
        model = fully_shard(network, mesh=mesh)
    else:
        model = FSDP(
            network,
            sharding_strategy=ShardingStrategy[strategy],
            auto_wrap_policy=ModuleWrapPolicy({Block}),
            device_id=torch.device("cpu"),
        )
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    return SimpleNamespace(
        model=SimpleNamespace(model=model), optimizer=SimpleNamespace(optimizer=optimizer), lr_scheduler=scheduler
    )


def step(made: Any, number: int) -> float:
    """One optimizer step on a batch of 8 rows that are divided among the ranks; returns the mean loss."""
    rows = torch.arange(8 * 5).reshape(8, 5) * (number + 3) % 17
    own = rows[dist.get_rank() :: dist.get_world_size()]
    loss = nn.functional.cross_entropy(made.model.model(own).flatten(0, 1), own.flatten())
    loss.backward()
    made.optimizer.optimizer.step()
    made.lr_scheduler.step()
    made.optimizer.optimizer.zero_grad()
    total = loss.detach().clone()
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def digests(made: Any) -> dict[str, str]:
    """sha256 of all weights and of the whole optimizer state."""
    options = state_dict.StateDictOptions(full_state_dict=True)
    weights, state = state_dict.get_state_dict(made.model.model, made.optimizer.optimizer, options=options)
    flat = {f"{name}.{kind}": value for name, kinds in state["state"].items() for kind, value in kinds.items()}
    rate = [group["lr"] for group in made.optimizer.optimizer.param_groups]
    return {"weights": digest(weights), "optimizer": digest(flat), "learning_rate": json.dumps(rate)}


def digest(tensors: dict[str, torch.Tensor]) -> str:
    content = b"".join(name.encode() + tensors[name].contiguous().numpy().tobytes() for name in sorted(tensors))
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    """Save or load the state of each kind, and print what the test compares."""
    warnings.simplefilter("ignore")
    folder, what = Path(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo")
    found = {}
    for saved_as, kind in [(kind, kind) for kind in KINDS] + ([*TAKES.items()] if what == "load" else []):
        made = accelerator(kind)
        layout = {"num_ranks": dist.get_world_size()}
        metrics = folder / "metrics.jsonl"
        states = FullStates(
            folder / saved_as,
            keep=1,
            state_id="id",
            layout=layout,
            seed=0,
            metrics=metrics,
            in_background=KINDS[kind][0] == "FSDP2",
        )
        if what == "save":
            for number in range(3):
                step(made, number)
            torch.manual_seed(dist.get_rank())
            states.save(made, Position(step=3))
            drawn = torch.rand(1).item()
        else:
            assert states.load(made).position.step == 3
            drawn = torch.rand(1).item()
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, drawn)
        found[saved_as if saved_as == kind else f"{saved_as} as {kind}"] = {
            **digests(made),
            "drawn": every,
            "losses": [step(made, number) for number in range(3, 6)],  # while FSDP2's state is written
        }
        states.finish()
    if dist.get_rank() == 0:
        sys.stdout.write(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
