"""The whole job on real data: GSM8K's question and answer columns, a tiny model, the held-out split, MLflow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.command import records, sft, steps

pytestmark = pytest.mark.slow


@pytest.mark.exhaustive
def test_gsm8k_is_learned_scored_and_registered(tmp_path: Path) -> None:
    if "SFT_TEST_DATA" not in os.environ:
        pytest.skip("SFT_TEST_DATA is not set")
    data = Path(os.environ["SFT_TEST_DATA"]).resolve() / "data" / "gsm8k" / "train.jsonl"
    answer = sft(
        "run",
        "gsm8k",
        f"dataset.uri={data}",
        "dataset.max_samples=200",
        "model=scratch",
        "training.num_epochs=2",
        "training.learning_rate=3e-3",
        "training.warmup_steps=2",
        "training.effective_batch_size=32",
        "training.max_seq_len=1024",
        "training.max_tokens_per_gpu=4096",
        "training.gradient_checkpointing=none",
        "training.launcher.procs_per_worker=2",
        "eval.tasks=[]",
        "eval.holdout.max_new_tokens=16",
        cwd=tmp_path,
    )
    assert answer.status == 0, answer.err
    [record] = records(tmp_path / "runs")
    made = {name: step["facts"] for name, step in steps(record).items()}
    assert made["dataset"]["num_rows"] == 7473
    assert (made["dataset"]["num_train"], made["dataset"]["num_eval"]) == (190, 10)
    assert made["dataset"]["num_unused"] + made["dataset"]["num_duplicates"] == 7473 - 200
    assert made["train"]["num_steps"] == 12
    before, after = (
        {score["metric"]: score["value"] for score in made[name]["scores"]}
        for name in ("evaluate:base", "evaluate:tuned")
    )
    assert after["loss"] < before["loss"] - 1
    assert after["token_accuracy"] > before["token_accuracy"]
    assert (made["register"]["name"], made["register"]["version"]) == ("gsm8k", "1")
