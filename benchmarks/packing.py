"""Packed rows against padded samples: useful tokens on 8 ranks, and samples per second of a CPU core, side by side.

    SFT_TEST_DATA=… python benchmarks/packing.py [--rounds 5] [--steps 4] [--samples 32]

Samples are as long as GSM8K's (characters of question and answer by 4), and as chats with a long tail (log-normal,
median 400, sigma 1.1, at most 8,000 tokens); their tokens are random. "Useful" is the share of computed tokens that are
a sample's. A side computes loss and gradients of the same batches, with minibatches, collation, loss and attention as
a rank has them, on a model of Llama's architecture with 8 layers of 256 features. Rounds are interleaved; the best of
each side counts, by the CPU time of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sft.adapters.instructlab import packed_rows, packing
from sft.adapters.instructlab.rank import loss, minibatches, varlen
from sft.planning.flops import attention_cost

RANKS, BATCH_SIZE, GPU_BUDGET, CPU_BUDGET = 8, 128, 10_000, 2048
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4000,
}
COST = attention_cost({"model_type": "llama", **SHAPE})


def gsm8k() -> list[int]:
    """Return the lengths of GSM8K's samples in tokens."""
    file = Path(os.environ["SFT_TEST_DATA"]) / "data" / "gsm8k" / "train.jsonl"
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [(len(row["question"]) + len(row["answer"])) // 4 for row in rows]


def chats(num: int = 8000) -> list[int]:
    """Return lengths with a long tail."""
    numbers = random.Random(0)
    return [min(8000, int(numbers.lognormvariate(6, 1.1)) + 10) for _ in range(num)]


def useful(lengths: Sequence[int], budget: int) -> tuple[float, float]:
    """Return the share of computed tokens that are samples', padded and packed."""
    tokens = padded = packed = 0
    for begin in range(0, len(lengths), BATCH_SIZE):
        batch = lengths[begin : begin + BATCH_SIZE]
        tokens += sum(batch)
        padded += sum(packing.num_padded(each, batch, budget) for each in packing.divide(batch, budget, RANKS))
        rows = packed_rows.divide_rows(batch, budget, RANKS, attention_cost=COST)
        packed += sum(packed_rows.num_computed(row, batch, budget) for row in rows)
    return tokens / padded, tokens / packed


def side(attention: str, precision: str) -> Callable[[Sequence[int]], None]:
    """Return what computes the loss and gradients of a batch of samples with these lengths."""
    import torch
    from instructlab.training import sampler

    torch.set_num_threads(1)
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SHAPE)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    if attention == "varlen":
        varlen.select(model)
    model.is_gpt_oss = model.is_granitemoehybrid = False  # as the library's model says

    def run(lengths: Sequence[int]) -> None:
        ids = [torch.randint(SHAPE["vocab_size"], (length,)).tolist() for length in lengths]
        samples = [{"input_ids": each, "labels": each, "num_loss_counted_tokens": len(each)} for each in ids]
        with minibatches.patched_packers(CPU_BUDGET, attention_cost=COST):
            if attention == "varlen":
                divided = sampler.batch_lengths_to_minibatches_lpt(lengths, CPU_BUDGET, 1, 0)
                batch = [sampler.mb_collate_fn([samples[index] for index in each], 1) for each in divided]
            else:
                divided = sampler.batch_lengths_to_minibatches_padded(lengths, CPU_BUDGET, 1, 0)
                batch = [sampler.padded_mb_collate_fn([samples[index] for index in each], 1) for each in divided]
        for minibatch in batch:
            scaled, _ = loss.compute_loss(model, loss.inputs(minibatch, model, "cpu"), 1, sum(lengths))
            scaled.backward()
        model.zero_grad()

    return run


def speed(lengths: Sequence[int], *, num_rounds: int, num_steps: int, num_samples: int) -> dict[str, float]:
    """Return the samples per second of each side: the best of interleaved rounds."""
    numbers = random.Random(1)
    sides = {
        f"{attention} {precision}": side(attention, precision)
        for precision in ("fp32", "bf16")
        for attention in ("sdpa", "varlen")
    }
    best = dict.fromkeys(sides, 0.0)
    for each in range(num_rounds + 1):
        batches = [numbers.choices(lengths, k=num_samples) for _ in range(num_steps)]
        for name, run in sides.items():
            began = time.process_time()
            for batch in batches:
                run(batch)
            if each:  # the first one warms up
                best[name] = max(best[name], num_samples * num_steps / (time.process_time() - began))
    return best


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--samples", type=int, default=32)
    args = parser.parse_args()
    print("| lengths | budget | useful, padded | useful, packed |")
    print("|---|---|---|---|")
    for name, lengths in (("gsm8k", gsm8k()), ("chats", chats())):
        for budget in (GPU_BUDGET, *([CPU_BUDGET] if max(lengths) <= CPU_BUDGET else [])):
            padded, packed = useful(lengths, budget)
            print(f"| {name} | {budget:,} | {padded:.1%} | {packed:.1%} |")
    short_chats = [min(length // 4 + 5, CPU_BUDGET) for length in chats()]
    print("| lengths | precision | padded, samples/s | packed, samples/s | ratio |")
    print("|---|---|---|---|---|")
    for name, lengths in (("gsm8k", gsm8k()), ("chats by 4", short_chats)):
        found = speed(lengths, num_rounds=args.rounds, num_steps=args.steps, num_samples=args.samples)
        for precision in ("fp32", "bf16"):
            padded, packed = found[f"sdpa {precision}"], found[f"varlen {precision}"]
            print(f"| {name} | {precision} | {padded:.1f} | {packed:.1f} | {packed / padded:.2f} |")


if __name__ == "__main__":
    main()
