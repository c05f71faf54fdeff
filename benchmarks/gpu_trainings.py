"""Trainings of known shapes with random weights, and ours beside others: parts of gpu_report.py.

Each runs ``sft run`` as a user does. Without a GPU the shapes are tiny, so that the code is tested and nothing is
measured. NOT YET RUN on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.adapters.os import machine
from sft.config.schema import GradientCheckpointing, LoraConfig, Precision, ShardingStrategy
from sft.planning import memory
from sft.planning.adapters import num_adapter_parameters
from sft.planning.model_shape import shape_of

WARM_UP_STEPS, LORA_RANK = 2, 16
_BF16_NOISE = 0.05
"""Of a loss after eight steps."""
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512, "head_dim": 16}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}


@dataclass(frozen=True, kw_only=True)
class Training:
    """A shape and how it trains.

    Attributes:
        config: What ``config.json`` says.
        num_tokens: Of a sample, and the token budget.
        recomputation: As `training.gradient_checkpointing` takes it.
        lora: Whether adapters are trained.
        tokens_per_second: What others have measured on one H100 (below); 0 = not asked for.
        mfu: What is asked for; 0 = nothing.
    """

    config: dict[str, Any]
    num_tokens: int
    recomputation: str = "auto"
    lora: bool = False
    tokens_per_second: float = 0
    mfu: float = 0


def _config(
    model_type: str, hidden: int, inner: int, layers: int, heads: int, keys: int, **more: Any
) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": 151_936}
    return {"model_type": model_type, **sizes, "num_attention_heads": heads, "num_key_value_heads": keys, **more}


# Shapes: config.json of these models on the hub. Figures: prime-rl (Qwen3-0.6B, recomputing, 31.7 GiB) and NeMo
# Automodel (LoRA of Qwen2.5-7B), one H100 each.
TRAININGS = {
    "qwen3-0.6b": Training(
        config=_config("qwen3", 1024, 3072, 28, 16, 8, head_dim=128, tie_word_embeddings=True),
        num_tokens=8192,
        recomputation="full",
        tokens_per_second=26_005,
    ),
    "qwen2.5-7b-lora": Training(
        config={**_config("qwen2", 3584, 18_944, 28, 28, 4), "vocab_size": 152_064, "tie_word_embeddings": False},
        num_tokens=4096,
        lora=True,
        tokens_per_second=14_110,
    ),
    "qwen2.5-1.5b": Training(
        config=_config("qwen2", 1536, 8960, 28, 12, 2, tie_word_embeddings=True), num_tokens=4096, mfu=0.45
    ),
}


def train_shape(name: str) -> dict[str, Any]:
    """Train a shape for eight steps: tokens a second, utilisation, and its peak of memory against the estimate."""
    how, on_gpu = TRAININGS[name], bool(machine.gpus())
    tokens, config = _size(how)
    rows, record = _trained_shape(how)
    rows = rows[WARM_UP_STEPS:]
    resources = {key: each["value"] for key, each in record["resources"].items()}
    found = {**_speed(rows), "gradient_checkpointing": resources["gradient_checkpointing"]}
    shape = shape_of({**config, "dtype": "bfloat16"})
    if shape is None:
        raise RuntimeError(f"{name}: no known shape")
    setup = memory.Setup(
        ranks=resources["num_processes"],
        ranks_per_node=resources["num_processes"],
        token_budget=tokens,
        loss_share=sum(row["num_loss_tokens"] for row in rows) / sum(row["num_tokens"] for row in rows),
        value_bytes=2 if resources["precision"] == Precision.bf16.value else 4,
        gradient_checkpointing=GradientCheckpointing(resources["gradient_checkpointing"]),
        num_trained=num_adapter_parameters(LoraConfig(rank=LORA_RANK), shape) if how.lora else None,
        adapter_dropout=True,
        on_gpu=on_gpu,
        fsdp_version=resources["fsdp_version"],
    )
    estimate = memory.peak_bytes(shape, ShardingStrategy(resources["strategy"]), setup)
    found["peak_gib"] = max(row["memory_bytes"] for row in rows) / 2**30
    found["estimate_by_peak"] = (estimate - on_gpu * memory.GPU_OVERHEAD) / 2**30 / found["peak_gib"]
    asked = {"tokens_per_second": how.tokens_per_second, "mfu": how.mfu}
    found["asked"] = {key: value for key, value in asked.items() if value} | {"estimate_by_peak": "0.9 to 1.1"}
    reached = all(found[key] >= value for key, value in asked.items() if value and on_gpu)
    return {"holds": not on_gpu or (reached and 0.9 <= found["estimate_by_peak"] <= 1.1), **found}


def compiled_shape(name: str) -> dict[str, Any]:
    """Train a shape with compiled layers and without: tokens a second, peaks, the seconds to compile, and losses."""
    found: dict[str, Any] = {}
    losses = {}
    for mode in ("none", "regional"):
        rows, _ = _trained_shape(TRAININGS[name], f"training.compile={mode}")
        steady = [row for row in rows[WARM_UP_STEPS:] if "compile_seconds" not in row]
        found[mode] = {**_speed(steady), "peak_gib": max(row["memory_bytes"] for row in rows) / 2**30}
        found[mode]["compile_seconds"] = sum(row.get("compile_seconds", 0) for row in rows)
        losses[mode] = [row["loss"] for row in rows]
    apart = max(abs(one - other) for one, other in zip(*losses.values(), strict=True))
    ratio = found["regional"]["tokens_per_second"] / found["none"]["tokens_per_second"]
    holds = apart < _BF16_NOISE and (ratio > 1 or not machine.gpus())
    return {"holds": holds, "compiled_by_not": ratio, "largest_difference_of_a_loss": apart, **found}


def _size(how: Training) -> tuple[int, dict[str, Any]]:
    """Return the tokens of a sample and the model's configuration; tiny ones without a GPU."""
    return (how.num_tokens, how.config) if machine.gpus() else (192, {**how.config, **TINY})


def _trained_shape(how: Training, *more: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the metrics and the record of eight steps, with `more` settings."""
    on_gpu = bool(machine.gpus())
    tokens, config = _size(how)
    with tempfile.TemporaryDirectory(prefix="sft-gpu-shape-") as place:
        folder = Path(place)
        model = random_model(folder, config)
        _long_samples(folder, model, tokens, num_samples=8 * 8 if on_gpu else 8 * 2)
        settings = [
            *(f"dataset.uri={folder}/samples.jsonl", "dataset.train_split=1.0", f"model.name_or_path={model}"),
            *(f"training.max_seq_len={tokens}", f"training.max_tokens_per_gpu={tokens}", "registry=none", "eval=none"),
            f"training.effective_batch_size={8 if on_gpu else 2}",
            *("training.full_state_at_epoch=false", f"training.gradient_checkpointing={how.recomputation}"),
            *(["training/lora=default", f"training.lora.rank={LORA_RANK}"] if how.lora else []),
            *([] if on_gpu else ["training.precision=fp32"]),
            *more,
        ]
        (folder / "shape.yaml").write_text("defaults: [config, _self_]\n", encoding="utf-8")
        run(folder, "run", f"{folder}/shape.yaml", "--until", "train", *settings)
        return metrics(folder), _record(folder)


def beside_others() -> dict[str, Any]:
    """Run benchmarks/training.py: beside the library's `run_training` (asked for: 0.99), and TRL's trainer (1.2)."""
    import importlib.util

    if not machine.gpus():
        return {"skipped": "needs a GPU: the library's own entry point trains on nothing else"}
    has_trl = importlib.util.find_spec("trl") is not None
    argv = [sys.executable, str(Path(__file__).with_name("training.py")), "--rounds", "1", "--samples", "640"]
    argv += [] if has_trl else ["--without-trl"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        raise RuntimeError(done.stdout[-1000:] + done.stderr[-1000:])
    return {"trl": "beside" if has_trl else "skipped: trl is not installed", "table": done.stdout.splitlines()}


def run(folder: Path, *arguments: str) -> str:
    """Run ``sft`` in a folder and return what it said; raise with that if it fails."""
    argv = [sys.executable, "-m", "sft", *arguments]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        raise RuntimeError(done.stdout[-1500:] + done.stderr[-1500:])
    return done.stdout + done.stderr


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the one training in a run root."""
    [file] = folder.glob("runs/store/train/*/logs/metrics.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def environment() -> dict[str, str]:
    """Return this process's, with this checkout's sft and no hub."""
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}


def _record(folder: Path) -> dict[str, Any]:
    [file] = folder.glob("runs/*/run.json")
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return record


def _speed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = sum(row["seconds"] for row in rows)
    speed = {"tokens_per_second": sum(row["num_tokens"] for row in rows) / seconds}
    if all("mfu" in row for row in rows):
        speed["mfu"] = sum(row["mfu"] * row["seconds"] for row in rows) / seconds
    return speed


def random_model(folder: Path, config: dict[str, Any]) -> Path:
    """Write random weights of a shape, made on the GPU if there is one, and a small tokenizer."""
    import torch
    from training import prepare
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    (folder / "small").mkdir()
    prepare(folder / "small", 64)
    tokenizer = AutoTokenizer.from_pretrained(folder / "small" / "model")
    shape = {key: value for key, value in config.items() if key != "model_type"}
    shape["vocab_size"] = max(shape["vocab_size"], len(tokenizer))
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    made = AutoConfig.for_model(config["model_type"], **shape, **tokens, max_position_embeddings=32_768)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    return folder / "model"


def _long_samples(folder: Path, model: Path, num_tokens: int, num_samples: int) -> None:
    """Write conversations of nearly so many tokens each, all but a few of them the assistant's."""
    import random

    from transformers import AutoTokenizer

    tokenizer, chosen = AutoTokenizer.from_pretrained(model), random.Random(0)
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
        for number in range(num_samples):
            text = " ".join(str(chosen.randrange(10**6)) for _ in range(num_tokens))
            ids = tokenizer(text, add_special_tokens=False)["input_ids"][: num_tokens - 48]
            answer = tokenizer.decode(ids).strip()
            turns = [{"role": "user", "content": f"{number}"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")
