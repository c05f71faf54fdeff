"""Compiled layers (`training.compile: regional`) against those that are not: samples a second, and what it costs first.

    SFT_TEST_DATA=… python benchmarks/compile.py [--rounds 2] [--samples 320] [--precision fp32]

The 8-million-parameter model of `training.py`, its samples, batch and settings, each trained by ``sft run``. Rounds
are interleaved; the best of each side counts. A side's speed is that of its median step, without those in which
something is compiled. The compiling side of the first round finds nothing that was compiled before, later ones what it
has left.

``--bare`` takes forward and backward pass of the bare model on one thread instead, a packed row of ten samples of 200
tokens, by the processor's time, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from training import BATCH_SIZE, SHAPE, WARM_UP_STEPS, prepare, sft_side

from sft.adapters.os.machine import cpu_computes_bf16

MODES = ("none", "regional")


def trained(folder: Path, precision: str, mode: str) -> list[dict[str, Any]]:
    """Return the rows of an epoch's metrics."""
    argv = [*sft_side(folder, precision, f"training.compile={mode}").argv, "--until", "train"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
    with tempfile.TemporaryDirectory() as cwd:
        done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        [file] = Path(cwd).glob("runs/store/train/*/logs/metrics.jsonl")
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def samples_per_second(rows: list[dict[str, Any]]) -> float:
    """Return the speed of the median step in which nothing was compiled."""
    seconds = [row["seconds"] for row in rows[WARM_UP_STEPS:] if "compile_seconds" not in row]
    return float(BATCH_SIZE / statistics.median(seconds))


def bare(precision: str, rounds: int) -> None:
    """Print the processor's seconds of a pass without compiled layers and with them, and of compiling them."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from sft.adapters.instructlab.rank import compilation, fsdp2, varlen

    torch.set_num_threads(1)
    lengths = [200] * 10
    varlen.STATE.lengths = lengths
    ids = torch.randint(3, 4000, (1, sum(lengths)), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    packed = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 200, "max_length_k": 200}

    def seconds(model: Any) -> float:
        began = time.process_time()
        logits = model(input_ids=ids, position_ids=positions, use_cache=False, **packed).logits.float()
        torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
        model.zero_grad()
        return time.process_time() - began

    models = {}
    with compilation.compiling():
        for mode in MODES:
            torch.manual_seed(0)
            made = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).to(torch.bfloat16 if precision == "bf16" else torch.float32)
            models[mode] = made.train()
            varlen.select(made)
        compilation.compile_layers(models["regional"], fsdp2.layers_of(models["regional"]))
        for model in models.values():
            seconds(model)
        measured: dict[str, list[float]] = {mode: [] for mode in MODES}
        for _ in range(rounds):
            for mode, model in models.items():
                measured[mode].append(seconds(model))
    plain, compiled = (min(measured[mode]) for mode in MODES)
    print(f"not compiled        {plain:.2f} s of the processor a pass")
    print(f"compiled            {compiled:.2f} s of the processor a pass")
    print(f"not / compiled      {plain / compiled:.2f}")
    print(f"to compile          {compilation.report().seconds:.0f} s by the clock")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=320)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16" if cpu_computes_bf16() else "fp32")
    parser.add_argument("--bare", action="store_true", help="forward and backward pass alone, by the processor's time")
    options = parser.parse_args()
    how = "--bare" if options.bare else f"--samples {options.samples}"
    print(f"python benchmarks/compile.py --rounds {options.rounds} {how} --precision {options.precision}")
    if options.bare:
        bare(options.precision, options.rounds)
        return
    speeds: dict[str, list[float]] = {mode: [] for mode in MODES}
    compile_seconds, losses = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.samples)
        for _ in range(options.rounds):
            for mode in MODES:
                rows = trained(folder, options.precision, mode)
                speeds[mode].append(samples_per_second(rows))
                losses[mode] = [row["loss"] for row in rows]
                if mode == "regional":
                    compile_seconds.append(sum(row.get("compile_seconds", 0) for row in rows))
    apart = max(abs(one - other) for one, other in zip(*losses.values(), strict=True))
    plain, compiled = (max(speeds[mode]) for mode in MODES)
    print(f"not compiled        {plain:.2f} samples/s")
    print(f"compiled            {compiled:.2f} samples/s")
    print(f"compiled / not      {compiled / plain:.2f}")
    print(f"to compile          {', '.join(f'{seconds:.0f}' for seconds in compile_seconds)} s, a round each")
    print(f"losses apart        {apart:.1e}")


if __name__ == "__main__":
    main()
