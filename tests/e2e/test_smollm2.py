"""A real pretrained model through the real command line: what random weights can't show."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sft.adapters.checkpoint_files import read_tensors
from tests.support.command import records, sft, steps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.timeout(3600),
    # Warned while transformers is imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def learned_gsm8k(smollm2: Path, tmp_path: Path) -> Path:
    """A run root in which SmolLM2 was trained on 54 rows of GSM8K and scored on 6."""
    if "SFT_TEST_DATA" not in os.environ:
        pytest.skip("SFT_TEST_DATA is not set")
    answer = sft(
        "run",
        "smollm2",
        f"dataset.uri={Path(os.environ['SFT_TEST_DATA']).resolve() / 'data' / 'gsm8k' / 'train.jsonl'}",
        "dataset.max_samples=60",
        f"model.name_or_path={smollm2}",
        "training.num_epochs=1",
        "training.gradient_checkpointing=none",
        "eval.holdout.max_new_tokens=8",
        cwd=tmp_path,
    )
    assert answer.status == 0, answer.err
    return tmp_path / "runs"


def test_it_learns_and_is_saved_as_it_came_and_still_stops(smollm2: Path, learned_gsm8k: Path) -> None:
    [record] = records(learned_gsm8k)
    facts = {name: step["facts"] for name, step in steps(record).items()}
    before, after = (
        {score["metric"]: score["value"] for score in facts[name]["scores"]}
        for name in ("evaluate:base", "evaluate:tuned")
    )
    assert before["loss"] < 1.5  # it knows English and arithmetic; random weights have ln(49152) = 10.8
    assert after["loss"] < before["loss"] - 0.03  # 1.289 and 1.240 where this was written
    [saved] = (learned_gsm8k / "store" / "train").glob("*/model")
    [registered] = (learned_gsm8k / "store" / "package").glob("*/model")
    assert (registered / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
    assert read_tensors(saved) == read_tensors(smollm2)  # bf16, the head once
    assert (saved / "model.safetensors").stat().st_size == pytest.approx(269e6, rel=0.01)
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (saved / name).read_bytes() == (smollm2 / name).read_bytes()
    ended = [answer.endswith("<|im_end|>") for answer in _answers(saved)]
    assert sum(ended) >= 3, ended  # all four where this was written; another processor rounds otherwise


def _answers(folder: Path) -> list[str]:
    """What the model says to four questions, greedily, in fp32: in bf16 one rounding can turn an answer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for question in ("What is the capital of France?", "Hi there!", "What is 2+2?", "Name a colour."):
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        written = model.generate(**asked, max_new_tokens=60, do_sample=False)
        answers.append(str(tokenizer.decode(written[0, asked["input_ids"].shape[1] :])))
    return answers
