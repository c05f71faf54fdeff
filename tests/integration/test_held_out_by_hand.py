"""Held-out numbers of a real model on real rows, by a script of transformers and torch that has no line of ours."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import DatasetArtifact
from sft.config.schema import EvalConfig, HoldoutConfig, HoldoutMetric
from sft.progress import Progress
from sft.stages.evaluate import EvaluateInputs, HeldOutSet, evaluate

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]
NUM_ROWS, NUM_NEW = 3, 24
NUMBER = r"(-?\d[\d,]*)"
"""What it matches last is the answer of a text of GSM8K."""


@pytest.fixture(scope="module")
def rows() -> list[list[dict[str, str]]]:
    if "SFT_TEST_DATA" not in os.environ:
        pytest.skip("SFT_TEST_DATA is not set")
    file = Path(os.environ["SFT_TEST_DATA"]) / "data" / "gsm8k" / "test.jsonl"
    questions = [json.loads(line) for line in file.read_text().splitlines()[:NUM_ROWS]]
    return [
        [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        for row in questions
    ]


@pytest.fixture(scope="module")
def model_dir(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 in fp32, in which two ways to the same number agree to more digits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder: Path = tmp_path_factory.mktemp("fp32") / "model"
    AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(folder)
    return folder


def by_hand(model_dir: Path, rows: list[list[dict[str, str]]]) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    greedy = GenerationConfig(
        max_new_tokens=NUM_NEW, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id
    )
    loss, num_correct, num_tokens, answers, extracted = 0.0, 0, 0, [], []
    for messages in rows:
        question = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(question, add_special_tokens=False)["input_ids"]
        whole = tokenizer(question + messages[1]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
        assert whole[: len(prompt)] == prompt
        labels = [-100] * len(prompt) + whole[len(prompt) :]
        with torch.no_grad():
            output = model(torch.tensor([whole]), labels=torch.tensor([labels]))
            ids = model.generate(torch.tensor([prompt]), generation_config=greedy)[0, len(prompt) :]
        guesses = output.logits[0, len(prompt) - 1 : -1].argmax(dim=-1).tolist()
        num_correct += sum(guess == token for guess, token in zip(guesses, whole[len(prompt) :], strict=True))
        num_tokens += len(guesses)
        loss += float(output.loss) * len(guesses)
        answers.append(tokenizer.decode(ids, skip_special_tokens=True))
        numbers = [re.findall(NUMBER, text)[-1:] for text in (messages[1]["content"], answers[-1])]
        extracted.append(numbers[0] == numbers[1])
    return {
        "loss": loss / num_tokens,
        "perplexity": math.exp(loss / num_tokens),
        "token_accuracy": num_correct / num_tokens,
        "extracted_match": sum(extracted) / len(rows),
        "answers": answers,
    }


def test_loss_tokens_answers_and_what_is_taken_out_of_them_are_those_of_plain_transformers(
    model_dir: Path, rows: list[list[dict[str, str]]], tmp_path: Path
) -> None:
    data = DatasetArtifact(
        root=tmp_path / "data", source="", source_version="", num_rows=NUM_ROWS, num_train=0, num_eval=NUM_ROWS,
        num_rejected=0, num_duplicates=0, num_unused=0,
    )  # fmt: skip
    data.root.mkdir()
    data.eval_file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
    out = tmp_path / "out"
    out.mkdir()
    metrics = [HoldoutMetric(name) for name in ("loss", "perplexity", "token_accuracy", "extracted_match")]
    holdout = HoldoutConfig(metrics=metrics, extract=NUMBER, max_new_tokens=NUM_NEW)
    inputs = EvaluateInputs(
        model_dir=model_dir,
        model_digest="m",
        trust_remote_code=False,
        held_out=(HeldOutSet(name="gsm8k", dataset=data),),
    )
    report = evaluate(EvalConfig(tasks=[], batch_size="1", holdout=holdout), inputs, out, Progress(quiet=True))
    expected = by_hand(model_dir, rows)
    lines = (out / "samples_gsm8k.jsonl").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in lines] == expected.pop("answers")
    assert {score.metric: score.value for score in report.scores} == pytest.approx(expected, rel=0, abs=1e-6)
    assert report.dtype == "float32"
