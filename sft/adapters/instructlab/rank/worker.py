"""Runs one rank of a training: ``torchrun … -m sft.adapters.instructlab.rank.worker FOLDER``.

Reads ``FOLDER/settings.json``, fixes the library, and calls its `main_ds.main`. A rank that fails writes
``FOLDER/errors/rank_N.json``, because torchrun's summary does not say why. A rank that makes no step for too long
writes its Python stack to ``FOLDER/stacks/rank_N.txt``, whatever it hangs in.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from sft.adapters.instructlab.layout import ERRORS, SETTINGS, STACKS
from sft.adapters.instructlab.settings import WorkerOptions
from sft.adapters.os import child
from sft.files import write_json
from sft.logs import mask_streams

_AFTER_A_STALL_SECONDS = 300.0
"""How much longer than `training.stall_timeout_seconds` collectives wait, so that stacks are written first."""


def main() -> None:
    """Train; exit with status 1 if this rank failed, after its error was written."""
    child.die_with_parent()
    mask_streams()
    folder = Path(sys.argv[1])
    rank = os.environ["RANK"]
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    try:
        with (folder / STACKS / f"rank_{rank}.txt").open("w", encoding="utf-8") as stacks:
            _train(argparse.Namespace(**settings["main"]), WorkerOptions(**settings["options"]), folder, stacks)
    except Exception as error:  # noqa: BLE001 - the parent process must read any error
        write_json(folder / ERRORS / f"rank_{rank}.json", {**child.describe(error), "time": time.time()})
        traceback.print_exc()
        sys.stderr.flush()
        # Not SystemExit: other ranks wait in a collective, and interpreter exit would wait for them.
        os._exit(1)


def _train(args: argparse.Namespace, options: WorkerOptions, folder: Path, stacks: TextIO) -> None:
    def restart_stall_timer() -> None:
        faulthandler.dump_traceback_later(options.stall_timeout_seconds, file=stacks)

    restart_stall_timer()
    from sft.adapters.instructlab.rank import (
        compilation,
        context_parallel,
        cpu,
        fixes,
        fsdp2,
        kernels,
        loop,
        lora,
        loss,
        minibatches,
        objective,
        optimizer,
        recomputation,
        schedule,
        sharding,
        varlen,
    )

    with fixes.trackers_not_importable():
        from instructlab.training import main_ds
        from instructlab.training.utils import set_random_seed

    import torch.distributed as dist

    kernels.check_device(on_gpu=options.on_gpu)
    mixed_precision = "bf16" if options.precision == "bf16" else "no"
    with ExitStack() as patches:
        if not options.on_gpu:
            patches.enter_context(cpu.cpu_as_accelerator())
        patches.enter_context(
            kernels.patched_kernels(
                precision=options.precision, on_gpu=options.on_gpu, deterministic=options.deterministic
            )
        )
        if options.compile_layers:
            patches.enter_context(compilation.compiling())
        patches.enter_context(sharding.patched_timeouts(options.stall_timeout_seconds + _AFTER_A_STALL_SECONDS))
        if options.fsdp_version == 2:
            patches.enter_context(
                fsdp2.patched_accelerator(
                    precision=options.precision,
                    strategy=args.fsdp_sharding_strategy,
                    cpu_offload_params=args.cpu_offload_params_fsdp,
                    compiles=options.compile_layers,
                )
            )
        else:
            patches.enter_context(
                sharding.patched_sharding(
                    mixed_precision=mixed_precision, hybrid=args.fsdp_sharding_strategy == "HYBRID_SHARD"
                )
            )
        patches.enter_context(optimizer.patched_optimizer(options))  # frozen weights wait as they are stored, below
        patches.enter_context(
            fixes.patched_options(
                mixed_precision=mixed_precision,
                num_workers=options.num_loader_workers,
                packs_rows=options.packs_rows,
                narrows_frozen=options.fsdp_version == 2,
            )
        )
        patches.enter_context(fixes.patched_library())
        patches.enter_context(
            recomputation.patched_recomputation(
                options.gradient_checkpointing, with_reentry=bool(args.lora_r) and options.fsdp_version == 1
            )
        )
        patches.enter_context(
            minibatches.patched_packers(
                args.max_batch_len,
                attention_cost=options.attention_cost,
                context_parallel=options.context_parallel,
            )
        )
        if options.context_parallel > 1:
            patches.enter_context(context_parallel.patched_rows(options.context_parallel))
        if options.packs_rows and options.attention == varlen.NAME:
            patches.enter_context(varlen.patched_attention(precision=options.precision))
        patches.enter_context(loss.patched_loss(objective.losses_of(options)))
        training = loop.Loop(args, options, folder, after_step=restart_stall_timer)
        patches.enter_context(schedule.patched_schedule(options, training.num_steps))
        if args.lora_r:
            patches.enter_context(lora.lora_training(options, folder))
        patches.enter_context(training.patched_library())
        set_random_seed(args.seed)
        try:
            kernels.explained(lambda: main_ds.main(args), deterministic=options.deterministic)
        except (loop.StopRequested, loop.EndedEarly):
            dist.barrier()
            dist.destroy_process_group()
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
