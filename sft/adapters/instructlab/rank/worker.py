"""One rank of a training: ``torchrun … -m sft.adapters.instructlab.rank.worker FOLDER``.

Reads ``FOLDER/settings.json``, mends what has to be mended in the library, and calls its own `main_ds.main`.
A rank that fails leaves ``FOLDER/errors/rank_N.json``, because torchrun's summary does not say why. One that makes no
step for too long leaves its Python stack in ``FOLDER/stacks/rank_N.txt``, whatever it hangs in.
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


def main() -> None:
    """Trains; exits with status 1 when this rank failed.

    Raises:
        SystemExit: With status 1, after the error was written down.
    """
    child.die_with_parent()
    mask_streams()
    folder = Path(sys.argv[1])
    rank = os.environ["RANK"]
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    try:
        with (folder / STACKS / f"rank_{rank}.txt").open("w", encoding="utf-8") as stacks:
            _train(argparse.Namespace(**settings["main"]), WorkerOptions(**settings["options"]), folder, stacks)
    except Exception as error:  # noqa: BLE001 - whatever it is, the orchestrator must read it
        write_json(folder / ERRORS / f"rank_{rank}.json", {**child.describe(error), "time": time.time()})
        traceback.print_exc()
        sys.stderr.flush()
        # Not SystemExit: other ranks wait in a collective, and interpreter exit would wait for them.
        os._exit(1)


def _train(args: argparse.Namespace, options: WorkerOptions, folder: Path, stacks: TextIO) -> None:
    def alive() -> None:
        faulthandler.dump_traceback_later(options.stall_timeout_seconds, file=stacks)

    alive()
    from sft.adapters.instructlab.rank import cpu, fixes, loop, lora, loss, minibatches

    fixes.without_trackers()

    import torch
    import torch.distributed as dist
    from instructlab.training import main_ds
    from instructlab.training.utils import set_random_seed

    fixes.with_trackers()
    cuda = torch.cuda.is_available()
    with ExitStack() as patches:
        if not cuda:
            patches.enter_context(cpu.cpu_as_accelerator())
        patches.enter_context(
            fixes.options(
                mixed_precision="bf16" if options.precision == "bf16" else "no",
                num_workers=options.num_loader_workers,
                gradient_checkpointing=options.gradient_checkpointing,
            )
        )
        patches.enter_context(fixes.patched_library())
        patches.enter_context(minibatches.patched_packer(args.max_batch_len))
        patches.enter_context(loss.patched_loss())
        if args.lora_r:
            patches.enter_context(
                lora.trainable(
                    adapted_model=options.adapted_model, gradient_checkpointing=options.gradient_checkpointing
                )
            )
        patches.enter_context(loop.Loop(args, options, folder, alive=alive).installed())
        set_random_seed(args.seed)
        try:
            main_ds.main(args)
        except loop.StopRequested:
            dist.barrier()
            dist.destroy_process_group()
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
