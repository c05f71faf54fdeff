"""The training stage with real torchrun, gloo and FSDP on two ranks: what it makes, and what it says of it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sft.adapters.instructlab.layout import RESUMED
from sft.artifacts import CheckpointArtifact, TokenizedArtifact
from sft.config.schema import Attention
from sft.errors import StageError
from sft.progress import Progress
from sft.stages.training_task import TrainInputs
from tests.support.training import BATCH, CONFIG, EPOCHS, RATE, STEPS_PER_EPOCH, WARMUP, changed, metrics, train

pytestmark = pytest.mark.slow
SAME = ("step", "samples_seen", "num_tokens", "num_loss_tokens", "learning_rate")


@pytest.mark.long
def test_the_loss_falls_and_no_step_or_sample_is_missing(trained: CheckpointArtifact) -> None:
    rows = metrics(trained.root)
    assert [row["step"] for row in rows] == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    assert [row["samples_seen"] for row in rows if row["step"] % STEPS_PER_EPOCH == 0] == [200, 400, 600]
    assert trained.num_steps == len(rows)
    assert rows[0]["loss"] > 5  # as good as guessing among 400 tokens
    assert trained.final_loss == rows[-1]["loss"] < rows[0]["loss"] / 2


def test_the_learning_rate_follows_the_scheduler_of_the_recipe(trained: CheckpointArtifact) -> None:
    rows, total = metrics(trained.root), trained.num_steps
    expected = [RATE * min(n / WARMUP, (total - n) / (total - WARMUP)) for n in range(1, total + 1)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)


def test_a_row_of_metrics_counts_tokens_with_and_without_padding(
    trained: CheckpointArtifact, train_inputs: TrainInputs
) -> None:
    rows = metrics(trained.root)
    epoch = rows[:STEPS_PER_EPOCH]
    assert sum(row["num_tokens"] for row in epoch) == pytest.approx(train_inputs.tokenized.num_tokens, abs=5 * BATCH)
    assert sum(row["num_loss_tokens"] for row in epoch) == train_inputs.tokenized.num_loss_tokens
    for row in rows:
        assert row["padding"] == pytest.approx(1 - row["num_tokens"] / row["num_padded_tokens"])
        assert row["num_tokens"] <= row["num_padded_tokens"]
        assert row["tokens_per_second"] == pytest.approx(row["num_tokens"] / row["seconds"])
        assert row["loss_tokens_per_second"] == pytest.approx(row["num_loss_tokens"] / row["seconds"])
        assert 0 < row["gradient_norm"] < 100
        assert row["flops_per_second"] > row["tokens_per_second"] * 1e5
        assert "mfu" not in row  # on a CPU
        assert row["memory_bytes"] > 100 << 20  # torch alone


@pytest.mark.long
def test_packed_rows_train_as_padded_samples_do(
    trained: CheckpointArtifact, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    cfg = changed(attention=Attention.sdpa, num_epochs=1)
    padded = metrics(train(cfg, train_inputs, tmp_path, Progress(quiet=True)).root)
    for ours, theirs in zip(metrics(trained.root), padded[:WARMUP], strict=False):
        assert {name: ours[name] for name in SAME} == {name: theirs[name] for name in SAME}
        precision = 1e-6 * 10 ** (ours["step"] - 1)  # AdamW divides by the gradient, and so carries noise on
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=min(precision, 1e-4))
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=min(10 * precision, 1e-3))
        assert ours["num_padded_tokens"] < theirs["num_padded_tokens"]
    notes = [json.loads((root / "logs" / RESUMED).read_text(encoding="utf-8")) for root in (trained.root, tmp_path)]
    assert [note["attention"] for note in notes] == [
        "torch.nn.functional.scaled_dot_product_attention, over packed rows sample by sample",
        "sdpa, over padded samples",
    ]


def test_what_remains_is_a_model_that_loads_with_its_chat_template(trained: CheckpointArtifact) -> None:
    assert sorted(path.name for path in trained.root.iterdir()) == ["logs", "model"]

    import transformers

    model, facts = transformers.AutoModelForCausalLM.from_pretrained(trained.model_dir, output_loading_info=True)
    assert not facts["missing_keys"]
    assert not facts["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained.model_dir)
    assert len(tokenizer) <= model.config.vocab_size
    assert "<|im_start|>user\n12<|im_end|>" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "12"}], tokenize=False
    )


@pytest.mark.long
def test_a_rank_that_fails_is_quoted_and_not_torchruns_summary(train_inputs: TrainInputs, tmp_path: Path) -> None:
    root, out = tmp_path / "tokens", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    beyond = {"input_ids": [0, 1, 10**6, 2], "labels": [-100, -100, 10**6, 2], "len": 4}
    (root / "data.jsonl").write_text(json.dumps(beyond) + "\n", encoding="utf-8")
    counts = {"num_rows": 1, "num_samples": 1, "num_tokens": 4, "num_loss_tokens": 2, "longest_tokens": 4}
    broken = replace(train_inputs, tokenized=TokenizedArtifact(root=root, **counts))
    with pytest.raises(StageError, match="training failed: IndexError: index out of range") as caught:
        train(CONFIG, broken, out, Progress(quiet=True))
    assert caught.value.log is not None
    assert "Traceback" in caught.value.log.read_text(encoding="utf-8")


def test_a_run_stopped_before_its_publication_is_finished_without_training(
    trained: CheckpointArtifact, train_inputs: TrainInputs
) -> None:
    (trained.root / "work").mkdir()
    started = time.monotonic()
    again = train(CONFIG, train_inputs, trained.root, Progress(quiet=True))
    assert time.monotonic() - started < 1
    assert again == trained
    assert not (trained.root / "work").exists()
