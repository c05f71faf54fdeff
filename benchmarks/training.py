"""The training stage against TRL's `SFTTrainer`, and on a GPU against the library's own `run_training`, side by side.

    SFT_TEST_DATA=… python benchmarks/training.py [--rounds 2] [--samples 320] [--model FOLDER] [--precision bf16]

Every side fine-tunes the same model (Qwen2 architecture, 8 million random weights, unless ``--model`` names the folder
of another; ``python -m sft.adapters.smollm2 FOLDER`` makes one of 135 million) on the same samples (GSM8K; without
``SFT_TEST_DATA`` the quickstart's made-up ones) for one epoch: the same batch, learning rate and schedule, loss over
the assistant's turns only, no gradient checkpointing, the same cores. Rounds are interleaved; the best of each side
counts. A side is a process of its own that appends a row per optimizer step to a file; this process watches the file,
so all are timed by one clock. "Steady" leaves out the first steps; "all" is from the command to its end: imports,
tokenizing, training and saving. Tokens are the samples' own, without padding.

TRL gets what its documentation advises ("Reducing memory usage", "Speeding up training"): prompt and completion
columns, so that the loss counts completions only; samples grouped by length, since packing and padding-free batches
need flash attention; no loader processes; one process with a thread per core, and one process per core. The fastest
of its settings is what is compared. On a GPU with flash-attn it gets padding-free batches.

The side `run_training` always recomputes activations, so it is compared with a side of ours that does so too. It needs
a GPU: everything here that is for GPUs is written and HAS NOT BEEN RUN.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sft.adapters.os import machine
from sft.adapters.os.machine import cpu_computes_bf16

BATCH_SIZE, LEARNING_RATE, MAX_TOKENS, WARM_UP_STEPS = 32, 1e-3, 1024, 2
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4000,
}
RECIPE = """# One epoch on samples that are there.
defaults:
  - config
  - override /eval: none
  - _self_

dataset:
  train_split: 1.0

training:
  gradient_checkpointing: none
"""
GROUPED = {"train_sampling_strategy": "group_by_length"}
RECOMPUTING = "bf16, recomputing"
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Side:
    """One way to train.

    Attributes:
        framework: What it is compared as.
        conditions: Precision, and what else must be equal on two sides that are compared.
        settings: What is said to it, for the table.
        argv: Its command.
        rows: Glob of the file to which it appends a row per step, if it can with ``num_tokens``.
        threads: Per process.
    """

    framework: str
    conditions: str
    settings: str
    argv: tuple[str, ...]
    rows: str
    threads: int = CORES


@dataclass(frozen=True)
class Measured:
    """What a side did in one round; tokens where it counts them without padding."""

    samples_per_second: float
    tokens_per_second: float | None
    wall_seconds: float


def prepare(folder: Path, num_samples: int, base: Path | None = None) -> None:
    """Write the samples, a model with its tokenizer unless there is one, and a recipe."""
    from sft.config.schema import ColumnsConfig, DatasetConfig, DatasetFormat, ModelConfig, ModelSource, ScratchConfig
    from sft.progress import Progress
    from sft.stages.dataset import dataset
    from sft.stages.model import ModelInputs, model

    data = DatasetConfig(uri="synthetic://spell-numbers?rows=3000&seed=0", train_split=1.0, max_samples=num_samples)
    if shared := os.environ.get("SFT_TEST_DATA"):
        data.uri = f"{shared}/data/gsm8k/train.jsonl"
        data.format = DatasetFormat.prompt_completion
        data.columns = ColumnsConfig(prompt="question", completion="answer")
    (folder / "data").mkdir()
    quiet = Progress(quiet=True)
    samples = dataset(data, folder / "data", quiet)
    if base:
        (folder / "model").symlink_to(base.resolve(), target_is_directory=True)
    else:
        (folder / "model").mkdir()
        scratch = ModelConfig(source=ModelSource.scratch, scratch=ScratchConfig(**SHAPE))
        model(scratch, ModelInputs(dataset=samples), folder / "model", quiet)
    (folder / "training.yaml").write_text(RECIPE, encoding="utf-8")


def sft_side(folder: Path, precision: str, *settings: str) -> Side:
    """``sft run`` with its own defaults but for `settings`."""
    argv = [
        *(sys.executable, "-m", "sft", "run", f"{folder}/training.yaml"),
        f"dataset.uri={folder}/data/train.jsonl",
        f"model.name_or_path={folder}/model",
        f"training.effective_batch_size={BATCH_SIZE}",
        f"training.learning_rate={LEARNING_RATE}",
        f"training.max_seq_len={MAX_TOKENS}",
        f"training.precision={precision}",
        *settings,
    ]
    said = " ".join(setting.rpartition(".")[2] for setting in settings)
    return Side("sft", precision, said, tuple(argv), "runs/store/.staging/train-*/logs/metrics.jsonl")


def trl_side(folder: Path, precision: str, per_device: int, num_processes: int, **more: Any) -> Side:
    """`SFTTrainer` under its usual launcher."""
    request = {"folder": str(folder), "precision": precision, "per_device": per_device, "more": more}
    launch = [sys.executable]
    if num_processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    said = " ".join([f"per_device={per_device}", f"procs={num_processes}", *(f"{k}={v}" for k, v in more.items())])
    argv = (*launch, __file__, "--trl", json.dumps(request))
    return Side("trl", precision, said, argv, "rows.jsonl", CORES // num_processes)


def trl(request: Mapping[str, Any]) -> None:
    """Child: TRL's own trainer, in the working folder."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    folder = Path(request["folder"])
    lines = (folder / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    chats = [json.loads(line)["messages"] for line in lines]
    cuda = torch.cuda.is_available()
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    config = SFTConfig(
        output_dir="trl",
        num_train_epochs=1,
        per_device_train_batch_size=request["per_device"],
        gradient_accumulation_steps=BATCH_SIZE // request["per_device"] // num_processes,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        adam_beta2=0.95,
        max_length=MAX_TOKENS,
        gradient_checkpointing=False,
        bf16=request["precision"] == "bf16",
        use_cpu=not cuda,
        ddp_backend="gloo" if num_processes > 1 and not cuda else None,
        dataloader_num_workers=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **request["more"],
    )
    seen = 0

    class Rows(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_rest: Any) -> None:
            nonlocal seen
            if state.is_world_process_zero:
                new, seen = trainer._total_train_tokens - seen, trainer._total_train_tokens
                with Path("rows.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": state.global_step, "num_tokens": new}) + "\n")

    trainer = SFTTrainer(
        model=str(folder / "model"),
        args=config,
        train_dataset=Dataset.from_dict(
            {"prompt": [chat[:-1] for chat in chats], "completion": [chat[-1:] for chat in chats]}
        ),
        callbacks=[Rows()],
    )
    trainer.train()
    trainer.save_model()


def run_training_side(folder: Path) -> Side:
    """Run the library's own entry point. On a GPU only."""
    argv = (sys.executable, __file__, "--run-training", str(folder))
    return Side("run_training", RECOMPUTING, "", argv, "checkpoints/training_params_and_metrics_global0.jsonl")


def run_training(folder: Path) -> None:
    """Child: the library as its README starts it, in the working folder."""
    from instructlab.training import FSDPOptions, TorchrunArgs, TrainingArgs
    from instructlab.training import run_training as run
    from instructlab.training.config import ShardingStrategies

    one = len(machine.gpus()) == 1
    run(
        torch_args=TorchrunArgs(nproc_per_node=len(machine.gpus()), nnodes=1, node_rank=0, rdzv_id=1),
        train_args=TrainingArgs(
            model_path=str(folder / "model"),
            data_path=str(folder / "data" / "train.jsonl"),
            data_output_dir="data",
            ckpt_output_dir="checkpoints",
            max_seq_len=MAX_TOKENS,
            max_batch_len=10_000,
            num_epochs=1,
            effective_batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            fsdp_options=FSDPOptions(
                sharding_strategy=ShardingStrategies.NO_SHARD if one else ShardingStrategies.FULL_SHARD
            ),
            accelerate_full_state_at_epoch=False,
            data_process_num_cpu_procs=CORES,
            disable_flash_attn=importlib.util.find_spec("flash_attn") is None,
        ),
    )


def measured(side: Side) -> Measured:
    """Run a side in an empty folder and note when each of its rows appears."""
    with tempfile.TemporaryDirectory() as name:
        cwd, log = Path(name), Path(name) / "log"
        environment = {**os.environ, "HF_DATASETS_CACHE": f"{name}/cache", "HF_HUB_OFFLINE": "1"}
        if side.framework == "trl":
            environment["OMP_NUM_THREADS"] = str(side.threads)
        seen: list[float] = []
        rows: list[dict[str, Any]] = []
        began = time.monotonic()
        with (
            log.open("wb") as output,
            subprocess.Popen(side.argv, cwd=cwd, env=environment, stdout=output, stderr=output) as run,
        ):
            while run.poll() is None:
                time.sleep(0.02)
                for file in cwd.glob(side.rows):
                    rows = complete_rows(file) or rows
                seen += [time.monotonic()] * (len(rows) - len(seen))
        wall_seconds = time.monotonic() - began
        if run.returncode != 0 or len(seen) <= WARM_UP_STEPS:
            command = " ".join(side.argv)
            raise SystemExit(f"{command}: status {run.returncode}, {len(seen)} steps\n{log.read_text()[-3000:]}")
    steady, seconds = rows[WARM_UP_STEPS:], seen[-1] - seen[WARM_UP_STEPS - 1]
    tokens = sum(row["num_tokens"] for row in steady) / seconds if "num_tokens" in steady[0] else None
    return Measured(len(steady) * BATCH_SIZE / seconds, tokens, wall_seconds)


def complete_rows(file: Path) -> list[dict[str, Any]]:
    """Return the steps that a file tells; none where it was moved meanwhile."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [row for row in rows if "step" in row]


def sides(folder: Path, *, without_trl: bool = False, precision: str | None = None) -> list[Side]:
    """Return what runs on this machine; the first of `sft` under each condition is its default.

    Args:
        folder: As `prepare` filled it.
        without_trl: Leave out TRL's.
        precision: On a CPU; None = those that it has instructions for.
    """
    gpus = len(machine.gpus())
    if gpus:
        advised = {"padding_free": True} if importlib.util.find_spec("flash_attn") else GROUPED
        made = [
            sft_side(folder, "bf16"),
            trl_side(folder, "bf16", min(16, BATCH_SIZE // gpus), gpus, **advised),
            replace(sft_side(folder, "bf16", "training.gradient_checkpointing=full"), conditions=RECOMPUTING),
            run_training_side(folder),
        ]
        return _asked(made, without_trl)
    found = []
    here = ("bf16", "fp32") if cpu_computes_bf16() else ("fp32",)
    for each in (precision,) if precision else here:
        found.append(sft_side(folder, each))
        found.append(trl_side(folder, each, 8, 1, **GROUPED))
        found.append(sft_side(folder, each, f"training.launcher.procs_per_worker={CORES}"))
        found.append(trl_side(folder, each, 4, CORES, **GROUPED))
    return _asked(found, without_trl)


def _asked(every: list[Side], without_trl: bool) -> list[Side]:
    return [side for side in every if side.framework != "trl" or not without_trl]


def report(every: Mapping[Side, list[Measured]]) -> None:
    """Each side's best round, and the ratios that are asked for."""
    best = {side: max(rounds, key=lambda round_: round_.samples_per_second) for side, rounds in every.items()}
    print(f"{'side':<13}{'conditions':<19}{'settings':<58}{'samples/s':>10}{'tokens/s':>10}{'all':>9}")
    for side, found in best.items():
        tokens = "" if found.tokens_per_second is None else f"{found.tokens_per_second:.0f}"
        wall = min(round_.wall_seconds for round_ in every[side])
        speeds = f"{found.samples_per_second:>10.2f}{tokens:>10}{wall:>7.1f} s"
        print(f"{side.framework:<13}{side.conditions:<19}{side.settings:<58}{speeds}")
    for other in dict.fromkeys((side.framework, side.conditions) for side in best if side.framework != "sft"):
        ours = [
            m.samples_per_second for side, m in best.items() if (side.framework, side.conditions) == ("sft", other[1])
        ]
        theirs = max(m.samples_per_second for side, m in best.items() if (side.framework, side.conditions) == other)
        asked = 0.99 if other[0] == "run_training" else 1.2 if machine.gpus() else 1.3
        ratios = f"{ours[0] / theirs:.2f} by default, {max(ours) / theirs:.2f} at its fastest"
        print(f"sft / the fastest {other[0]}, {other[1]}: {ratios} (asked for: {asked})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=320)
    parser.add_argument("--without-trl", action="store_true", help="where it is not installed")
    parser.add_argument("--model", type=Path, help="folder of a model")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="on a CPU: this one alone")
    options = parser.parse_args()
    print("python benchmarks/training.py", *sys.argv[1:])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.samples, options.model)
        made = sides(folder, without_trl=options.without_trl, precision=options.precision)
        every: dict[Side, list[Measured]] = {side: [] for side in made}
        for _ in range(options.rounds):
            for side, rounds in every.items():
                rounds.append(measured(side))
    report(every)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--trl"]:
        trl(json.loads(sys.argv[2]))
    elif sys.argv[1:2] == ["--run-training"]:
        run_training(Path(sys.argv[2]))
    else:
        main()
