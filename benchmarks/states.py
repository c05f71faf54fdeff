"""What a training waits for a full state: written while it waits, and written while it goes on.

    python benchmarks/states.py [--ranks 2] [--rounds 3] [--hidden 512] [--steps 12]

Ranks of FSDP2 train a Llama of random weights, by default 31 million (a state of 373 MB), and save a full state after
a third and two thirds of the steps, in turn both ways, on the same ranks. A stall is the time in which a rank makes no
step because of a state: that of saving, and what the steps beside a writing thread take longer than others (medians;
the writer takes a share of the same cores here, which on a GPU it does not). Prints medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]


def network(hidden: int) -> Any:
    """Return a Llama of eight layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": 8, "vocab_size": 4000}
    return LlamaForCausalLM(LlamaConfig(num_attention_heads=8, num_key_value_heads=4, use_cache=False, **sizes))


def accelerator(hidden: int) -> Any:
    """Return what `FullStates` takes: a model that is sharded over all ranks, and AdamW."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, model = init_device_mesh("cpu", (dist.get_world_size(),)), network(hidden)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    parts = {"model": SimpleNamespace(model=model), "optimizer": SimpleNamespace(optimizer=optimizer)}
    return SimpleNamespace(**parts, lr_scheduler=scheduler)


def trained(made: Any, folder: Path, num_steps: int, *, in_background: bool) -> dict[str, float]:
    """Train and save on the way; return seconds: of saving, of steps beside it and of others, until it was written."""
    import torch
    import torch.distributed as dist

    from sft.adapters.instructlab.rank.full_states import FullStates, Position

    states = FullStates(
        folder,
        keep=1,
        state_id="id",
        layout={},
        seed=0,
        metrics=folder / "metrics.jsonl",
        in_background=in_background,
    )
    ids = torch.randint(3, 4000, (2, 128), generator=torch.Generator().manual_seed(dist.get_rank()))
    saving: list[float] = []
    beside: list[float] = []
    others: list[float] = []
    written: list[float] = []
    for step in range(1, num_steps + 1):
        began, is_writing = time.perf_counter(), bool(saving) and not written
        made.model.model(input_ids=ids, labels=ids).loss.backward()
        made.optimizer.optimizer.step()
        made.optimizer.optimizer.zero_grad()
        (beside if in_background and is_writing else others).append(time.perf_counter() - began)
        states.check()
        if (seconds := states.written_seconds()) is not None:
            written.append(seconds)
        if step in {num_steps // 3, 2 * num_steps // 3}:
            began = time.perf_counter()
            states.save(made, Position(step=step))
            saving.append(time.perf_counter() - began)
            written.clear()
    states.finish()
    last = states.written_seconds() or (written[-1] if written else saving[-1])
    slower = (statistics.median(beside) - statistics.median(others)) * len(beside) / len(saving) if beside else 0.0
    return {"saving": statistics.median(saving), "beside": max(0.0, slower), "written": last}


def rank(arguments: argparse.Namespace) -> None:
    """Child: train both ways in turn; rank 0 prints a row of each round."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    made = accelerator(arguments.hidden)
    num_weights = sum(weight.numel() for weight in made.model.model.parameters())
    for number in range(arguments.rounds + 1):  # the first one warms up
        for in_background in (False, True):
            folder = Path(arguments.rank) / f"{number}{in_background}"
            row = trained(made, folder, arguments.steps, in_background=in_background)
            if number and dist.get_rank() == 0:
                print(json.dumps({**row, "in_background": in_background, "bytes": 12 * num_weights}), flush=True)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"ranks": 2, "rounds": 3, "hidden": 512, "steps": 12}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        rank(arguments)
        return
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("rounds", "hidden", "steps")]
    print("python benchmarks/states.py", f"--ranks={arguments.ranks}", *sizes)
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory(prefix="sft-states-") as folder:
        argv = [*launch, f"--nproc-per-node={arguments.ranks}", __file__, *sizes, f"--rank={folder}"]
        done = subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    print(f"a state of {rows[0]['bytes'] / 1e6:.0f} MB, {arguments.ranks} ranks")
    print("| state | saving | steps beside it, longer by | stall | until it was on the disk |\n|---|---|---|---|---|")
    saving, stalls = {}, {}
    for in_background in (False, True):
        of = {
            key: statistics.median(row[key] for row in rows if row["in_background"] is in_background)
            for key in ("saving", "beside", "written")
        }
        saving[in_background], stalls[in_background] = of["saving"], of["saving"] + of["beside"]
        name = "while it goes on" if in_background else "while it waits"
        cells = (of["saving"], of["beside"], stalls[in_background], of["written"])
        print(f"| {name} | {' | '.join(f'{seconds:.2f} s' for seconds in cells)} |")
    ratios = saving[False] / saving[True], stalls[False] / stalls[True]
    print(f"waiting / going on: {ratios[0]:.1f} times the saving, {ratios[1]:.1f} times the stall")


if __name__ == "__main__":
    main()
