"""Measured peaks of ranks against the estimate of `sft plan`, on this machine's CPU.

    SFT_TEST_DATA=… python benchmarks/memory.py

Trains three shapes for two steps, heavy in weights, in activations and in logits; each on one rank, and on two with
every strategy that a CPU has. The peak is a rank's largest resident set (``memory_bytes`` of metrics.jsonl). Prints
both and their ratio.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sft.config.schema import GradientCheckpointing, ShardingStrategy
from sft.planning import memory
from sft.planning.memory import Setup
from sft.planning.model_shape import Shape, shape_of

SHAPES = {
    "weights": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab_size": 1000},
    "deep": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 16, "vocab_size": 4000},
    "logits": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 12000},
}
TOKENS = {"weights": 1024, "deep": 2048, "logits": 4096}
SAMPLES = {"weights": 16, "deep": 32, "logits": 96}  # two steps each; enough to fill the token budget
CASES = [(1, "NO_SHARD"), (2, "FULL_SHARD"), (2, "SHARD_GRAD_OP"), (2, "NO_SHARD")]


def peak(folder: Path, kind: str, ranks: int, strategy: str, precision: str) -> tuple[int, Shape, float]:
    """Bytes of the largest rank, the model's shape, and the part of the tokens that counts for the loss."""
    settings = [f"model.scratch.{key}={value}" for key, value in SHAPES[kind].items()]
    settings += [
        "model.scratch.num_attention_heads=4",
        f"dataset.uri={os.environ['SFT_TEST_DATA']}/data/gsm8k/train.jsonl",
        "dataset.format=prompt_completion",
        "dataset.columns.prompt=question",
        "dataset.columns.completion=answer",
        f"dataset.max_samples={SAMPLES[kind]}",
        "dataset.train_split=1.0",
        "training.max_seq_len=1024",
        f"training.max_tokens_per_gpu={TOKENS[kind]}",
        "training.num_epochs=1",
        f"training.effective_batch_size={SAMPLES[kind] // 2}",
        f"training.precision={precision}",
        f"training.fsdp.sharding_strategy={strategy}",
        f"training.launcher.procs_per_worker={ranks}",
    ]
    argv = [sys.executable, "-m", "sft", "run", "quickstart", "dataset=local", "eval=none", "registry=none", *settings]
    subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (record,) = sorted(folder.glob("runs/*/run.json"), key=lambda path: path.stat().st_mtime)[-1:]
    steps = {step["name"]: Path(step["path"]) for step in json.loads(record.read_text(encoding="utf-8"))["steps"]}
    lines = (steps["train"] / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    loss_share = sum(row["num_loss_tokens"] for row in rows) / sum(row["num_tokens"] for row in rows)
    config = json.loads((steps["model"] / "config.json").read_text(encoding="utf-8"))
    shape = shape_of(config)
    if shape is None:
        raise SystemExit("the model's shape is not known")
    return max(row["memory_bytes"] for row in rows), shape, loss_share


def main() -> None:
    print("SFT_TEST_DATA=… python benchmarks/memory.py")
    print(f"{'shape':<9}{'ranks':>6}  {'strategy':<14}{'precision':<10}{'measured':>9}{'estimated':>10}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as name:
        for kind in SHAPES:
            for ranks, strategy in CASES:
                for precision in ("fp32", "bf16") if strategy == "FULL_SHARD" else ("fp32",):
                    measured, shape, loss_share = peak(Path(name), kind, ranks, strategy, precision)
                    setup = Setup(
                        ranks=ranks,
                        ranks_per_node=ranks,
                        token_budget=TOKENS[kind],
                        loss_share=loss_share,
                        value_bytes=4 if precision == "fp32" else 2,
                        gradient_checkpointing=GradientCheckpointing.none,
                    )
                    estimated = memory.peak_bytes(shape, ShardingStrategy(strategy), setup)
                    print(
                        f"{kind:<9}{ranks:>6}  {strategy:<14}{precision:<10}{measured / 2**20:>6.0f} MiB"
                        f"{estimated / 2**20:>6.0f} MiB{estimated / measured:>7.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
