"""What is proved on CPUs, looked at on the first GPU that is there; the most valuable part first, each told as it ends.

    python benchmarks/gpu_report.py [--seconds 480] [--out benchmarks/gpu-report.json] [--parts machine packing …]

Each part is a process of its own, so that one that fails or hangs costs the others nothing but its time; the file is
written after each. A part that compares says in ``holds`` how it went. A table for RESULTS.md comes last. Without a GPU
the parts that can run take a CPU and tiny sizes, which tests their code and measures nothing: ``device`` in the file
says so. NOT YET RUN on a GPU.

`gpu_trainings.py` has the trainings of known shapes, and ours beside the library's `run_training` and TRL;
`gpu_runs.py` a training that is killed and goes on, and an evaluation of 500 questions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import gpu_runs
import gpu_trainings

LENGTHS = (700, 1500, 300, 1100)
"""Tokens of the samples that share a row; a tenth of it on a CPU."""

_BF16_NOISE = 0.05
"""Of a logit, against the largest one: four layers of bf16, whose numbers have 8 bits."""


def device() -> str:
    """Return ``cuda``, or ``cpu`` where torch finds none."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def tiny_model(attention: str) -> Any:
    """Return a random model of four layers, of a width that GPUs like; of two narrow ones on a CPU."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    on_gpu = device() == "cuda"
    heads = {"num_attention_heads": 16, "num_key_value_heads": 4} if on_gpu else {"num_attention_heads": 4}
    config = Qwen2Config(
        hidden_size=2048 if on_gpu else 64,
        intermediate_size=4096 if on_gpu else 128,
        num_hidden_layers=4 if on_gpu else 2,
        vocab_size=8192 if on_gpu else 128,
        use_cache=False,
        **{"num_key_value_heads": 2, **heads},
    )
    config._attn_implementation = attention
    return Qwen2ForCausalLM(config).to(device())


def samples() -> list[Any]:
    """Return the tokens of each sample, the same each time."""
    import torch

    random = torch.Generator().manual_seed(1)
    lengths = LENGTHS if device() == "cuda" else [length // 10 for length in LENGTHS]
    return [torch.randint(3, 128, (length,), generator=random) for length in lengths]


def machine_facts() -> dict[str, Any]:
    """Return what is here: GPUs, driver, torch, and what a training would miss of it."""
    import importlib.util

    from sft.adapters.os import driver, gpus, machine

    torch_build, here = driver.installed_torch(), driver.installed_driver()
    return {
        "gpus": [asdict(gpu) for gpu in gpus.visible()],
        "trouble": machine.gpu_trouble(),
        "driver": asdict(here),
        "torch": torch_build and asdict(torch_build),
        "mismatch": driver.mismatch(torch_build, here) if gpus.visible() else None,
        "c_compiler": machine.c_compiler(),
        "python_headers": machine.python_headers() is not None,
        "packages": {name: importlib.util.find_spec(name) is not None for name in ("flash_attn", "liger_kernel")},
    }


def packing() -> dict[str, Any]:
    """Compare samples that share a row with each alone, by every attention that is here: equal to bf16's noise.

    Logits, loss and the gradient of all weights; of varlen also which kernel it was.
    """
    import importlib.util

    import torch

    from sft.adapters.instructlab.rank import loss, varlen
    from sft.adapters.instructlab.rank.minibatches import collate_row

    rows = samples()
    num_tokens, targets = sum(map(len, rows)), torch.cat(rows)
    items = [{"input_ids": row.tolist(), "labels": row.tolist(), "num_loss_counted_tokens": len(row)} for row in rows]
    has_flash = device() == "cuda" and importlib.util.find_spec("flash_attn") is not None

    def measured(model: Any, logits: Any) -> tuple[Any, float, Any]:
        of_loss = torch.nn.functional.cross_entropy(logits[:-1].float(), targets[1:].to(logits.device))
        of_loss.backward()
        gradient = torch.cat([each.grad.flatten().float().cpu() for each in model.parameters()])
        return logits.detach().float().cpu(), float(of_loss), gradient

    model = tiny_model("sdpa").to(torch.bfloat16)
    alone, loss_alone, expected = measured(
        model, torch.cat([model(input_ids=row[None].to(device())).logits[0] for row in rows])
    )
    found: dict[str, Any] = {}
    for attention in (varlen.NAME, "sdpa", *(["flash_attention_2"] if has_flash else [])):
        model = tiny_model("sdpa" if attention == varlen.NAME else attention).to(torch.bfloat16)
        if attention == varlen.NAME:
            varlen.STATE.has_kernel = varlen.has_kernel("bf16")
            varlen.select(model)
        arguments = loss.inputs(collate_row(items, 1, token_budget=num_tokens + 100), model, device())
        arguments.pop("places"), arguments.pop("targets")
        packed, loss_packed, gradient = measured(model, model(**arguments).logits[0, :num_tokens])
        found[attention] = {
            "largest_difference": float((packed - alone).abs().max() / alone.abs().max()),
            "gradient_difference": float((gradient - expected).norm() / expected.norm()),
            "loss_packed": loss_packed,
            "loss_alone": loss_alone,
        }
    found[varlen.NAME]["has_kernel"] = varlen.STATE.has_kernel
    holds = all(max(each["largest_difference"], each["gradient_difference"]) < _BF16_NOISE for each in found.values())
    return {"holds": holds, **found}


def deterministic() -> dict[str, Any]:
    """Compare the gradients of equal passes, with `training.deterministic` and without, and time both."""
    import torch

    from sft.adapters.instructlab.rank import kernels

    ids = torch.cat(samples())[None].to(device())

    def gradients(num: int) -> tuple[list[Any], float]:
        model, made, seconds = tiny_model("sdpa").to(torch.bfloat16), [], 0.0
        for _ in range(num):
            model.zero_grad()
            began = time.perf_counter()
            model(input_ids=ids, labels=ids).loss.backward()
            if device() == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            made.append(torch.cat([weight.grad.flatten().cpu() for weight in model.parameters()]))
        return made, seconds

    with kernels.patched_kernels(precision="bf16", on_gpu=device() == "cuda", deterministic=True):
        asked, slow = gradients(4)
    plain, fast = gradients(4)
    return {
        "holds": all(torch.equal(asked[0], each) for each in asked),
        "equal_without": all(torch.equal(plain[0], each) for each in plain),
        "seconds_with": slow,
        "seconds_without": fast,
    }


def fp32_attention() -> dict[str, Any]:
    """Measure peaks of memory in fp32 with shared keys, and with repeated ones as sft has it (trap 28)."""
    import torch

    from sft.adapters.instructlab.rank import kernels

    ids, found = torch.cat(samples())[None].to(device()), {}
    for name, precision in (("shared_keys", "bf16"), ("repeated_keys", "fp32")):
        model = tiny_model("sdpa")
        if device() == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with kernels.patched_kernels(precision=precision, on_gpu=True, deterministic=False):
            model(input_ids=ids, labels=ids).loss.backward()
        found[name] = torch.cuda.max_memory_allocated() if device() == "cuda" else 0
    return {"holds": device() == "cpu" or found["repeated_keys"] < found["shared_keys"], **found}


def fsdp_versions() -> dict[str, Any]:
    """Train the quickstart's shape by FSDP1 and FSDP2, on a GPU in turn twice: seconds a step, peaks and losses."""
    found: dict[str, dict[str, Any]] = {}
    for version in (1, 2) * (2 if device() == "cuda" else 1):
        rows = _trained(f"training.fsdp.version={version}")
        seconds = sorted(row["seconds"] for row in rows[2:])
        best = found.setdefault(f"fsdp{version}", {"seconds_per_step": float("inf")})
        best["seconds_per_step"] = min(best["seconds_per_step"], seconds[len(seconds) // 2])
        best["memory_bytes"] = max(row["memory_bytes"] for row in rows)
        best["losses"] = [row["loss"] for row in rows]
    losses = zip(found["fsdp1"].pop("losses"), found["fsdp2"].pop("losses"), strict=True)
    apart = max(abs(one - two) for one, two in losses)
    return {"holds": apart < _BF16_NOISE, "largest_difference_of_a_loss": apart, **found}


def quickstart() -> dict[str, Any]:
    """Train the quickstart by sft itself, on whatever is here."""
    began = time.perf_counter()
    rows = _trained()
    return {
        "holds": rows[-1]["loss"] < rows[0]["loss"],
        "seconds": time.perf_counter() - began,
        "steps": len(rows),
        "losses": [rows[0]["loss"], rows[-1]["loss"]],
        "tokens_per_second": rows[-1]["tokens_per_second"],
    }


def utilisation() -> dict[str, Any]:
    """Run benchmarks/utilisation.py: tokens a second, MFU and memory of Qwen2.5-1.5B's shape."""
    if device() == "cpu":
        return {"skipped": "needs a GPU"}
    argv = [sys.executable, str(Path(__file__).with_name("utilisation.py"))]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=_environment())
    return {"table": done.stdout.splitlines()}


def _trained(*settings: str) -> list[dict[str, Any]]:
    """Return the metrics of an epoch of the quickstart, trained by sft itself; of a part of it on a CPU."""
    with tempfile.TemporaryDirectory(prefix="sft-gpu-report-") as folder:
        epoch = ["--until", "train", "training.num_epochs=1", *settings]
        epoch += ["dataset.uri='synthetic://spell-numbers?rows=1000&seed=0'"] if device() == "cpu" else []
        argv = [sys.executable, "-m", "sft", "run", "quickstart", *epoch]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, env=_environment())
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        [file] = Path(folder).glob("runs/store/**/logs/metrics.jsonl")
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "machine": machine_facts,
    "packing": packing,
    "deterministic": deterministic,
    "fp32-attention": fp32_attention,
    "quickstart": quickstart,
    "fsdp-versions": fsdp_versions,
    "kill-and-resume": gpu_runs.kill_and_resume,
    "evaluation": gpu_runs.evaluation_of_500,
    "qwen2.5-1.5b": partial(gpu_trainings.train_shape, "qwen2.5-1.5b"),
    "qwen3-0.6b": partial(gpu_trainings.train_shape, "qwen3-0.6b"),
    "qwen2.5-7b-lora": partial(gpu_trainings.train_shape, "qwen2.5-7b-lora"),
    "compiled": partial(gpu_trainings.compiled_shape, "qwen2.5-1.5b"),
    "beside-others": gpu_trainings.beside_others,
    "utilisation": utilisation,
}


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def run_part(name: str, seconds: float) -> dict[str, Any]:
    """Return what a part found, or why it found nothing."""
    argv, began = [sys.executable, "-W", "ignore", __file__, "--only", name], time.perf_counter()
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=max(1.0, seconds), check=False, env=_environment()
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {seconds:.0f} s"}
    if done.returncode:
        return {"failed": done.stderr.strip()[-1500:]}
    return {**json.loads(done.stdout.splitlines()[-1]), "part_seconds": round(time.perf_counter() - began, 1)}


def main() -> int:
    """Run the parts, tell each, and return 1 if one failed or does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("gpu-report.json"))
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps({"device": device(), **PARTS[arguments.only]()}))
        return 0
    ends_at, report = time.monotonic() + arguments.seconds, {}
    print("python benchmarks/gpu_report.py")
    for name in arguments.parts:
        report[name] = run_part(name, ends_at - time.monotonic())
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {json.dumps(report[name])}", flush=True)
    print("| part | device | found |\n|---|---|---|")
    for name, found in report.items():
        facts = ", ".join(f"{key} {value}" for key, value in found.items() if key != "device")
        print(f"| {name} | {found.get('device', '')} | {facts.replace('|', '/').replace(chr(10), ' ')} |")
    return 1 if any("failed" in found or not found.get("holds", True) for found in report.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
