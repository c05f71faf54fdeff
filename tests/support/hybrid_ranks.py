"""Two nodes of two ranks: ``torchrun --nnodes 2 … -m tests.support.hybrid_ranks FOLDER train``; ``load`` on any ranks.

`train` shards one model inside a node (HYBRID_SHARD) and another over all ranks (FULL_SHARD), trains both alike, and
saves the first one's full state. `load` gives that state to a model that is sharded over the ranks there are. Rank 0
prints what the test compares.
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

from sft.adapters.instructlab.rank import fixes
from sft.adapters.instructlab.rank.full_states import FullStates, Position
from tests.support.architectures import VOCABULARY, tiny
from tests.support.sharding_ranks import backend, wrapped
from tests.support.state_ranks import digests

NUM_STEPS, NUM_AFTER, NUM_ROWS = 12, 3, 8


def trained(made: Any, accelerator: Any, numbers: range) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step; its rows are the same on any number of ranks."""
    found = []
    for number in numbers:
        ids = torch.randint(3, VOCABULARY, (NUM_ROWS, 12), generator=torch.Generator().manual_seed(number))
        own = ids[dist.get_rank() :: dist.get_world_size()]
        logits = made.model.model(input_ids=own, use_cache=False).logits.float()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), own[:, 1:].flatten())
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(made.model.model.parameters(), 1.0)
        made.optimizer.optimizer.step()
        made.lr_scheduler.step()
        made.optimizer.optimizer.zero_grad()
        total = loss.detach().clone()
        dist.all_reduce(total)
        found.append((float(total) / dist.get_world_size(), float(norm)))
    return found


def made_with(strategy: str) -> tuple[Any, Any]:
    """What `FullStates` takes of the library's accelerator, and accelerate's own."""
    model, accelerator = wrapped(tiny("llama"), strategy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    parts = {"model": SimpleNamespace(model=model), "optimizer": SimpleNamespace(optimizer=optimizer)}
    return SimpleNamespace(**parts, lr_scheduler=scheduler), accelerator


def states(folder: Path) -> FullStates:
    layout = {"num_ranks": dist.get_world_size()}
    return FullStates(folder, keep=1, state_id="id", layout=layout, seed=0, metrics=folder / "metrics.jsonl")


def main() -> None:
    """Train or load, and print what came out."""
    warnings.simplefilter("ignore")
    folder, what = Path(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for strategy in ("FULL_SHARD", "HYBRID_SHARD") if what == "train" else ("FULL_SHARD",):
        with backend("fp32", strategy, version=2), fixes.patched_library():
            made, accelerator = made_with(strategy)
            if what == "train":
                steps = trained(made, accelerator, range(NUM_STEPS))
                if strategy == "HYBRID_SHARD":
                    states(folder).save(made, Position(step=NUM_STEPS))
            else:
                assert states(folder).load(made).position.step == NUM_STEPS
                steps = []
            weight = next(iter(made.model.model.parameters()))
            whole = {name: each.full_tensor().flatten() for name, each in made.model.model.named_parameters()}
            found[strategy] = {
                "mesh": [*weight.device_mesh.shape],
                "kept": weight.to_local().numel() / weight.numel(),
                "steps": steps,
                "weights": torch.cat([whole[name] for name in sorted(whole)]).tolist(),
                "digests": digests(made),
                "after": trained(made, accelerator, range(NUM_STEPS, NUM_STEPS + NUM_AFTER)),
            }
    if dist.get_rank() == 0:
        sys.stdout.write(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
