"""The training stage with real torchrun, gloo and FSDP on two ranks: what it makes, and what can't break it."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import CheckpointArtifact, DatasetArtifact, ModelArtifact, TokenizedArtifact, sha256_file
from sft.config.schema import LauncherConfig, LrScheduler, Precision, TrainingConfig
from sft.errors import StageError
from sft.progress import Progress
from sft.stages.tokenize import TokenizeInputs, tokenize
from sft.stages.train import TrainInputs, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

EPOCHS, WARMUP, RATE = 3, 2, 1e-2
CONFIG = TrainingConfig(
    num_epochs=EPOCHS,
    effective_batch_size=32,
    max_seq_len=128,
    max_tokens_per_gpu=256,
    learning_rate=RATE,
    lr_scheduler=LrScheduler.linear,
    warmup_steps=WARMUP,
    precision=Precision.fp32,
    gradient_checkpointing=False,
    launcher=LauncherConfig(procs_per_worker=2),
)
PARENT = """
import pickle, sys
from sft.progress import Progress
from sft.stages.train import train
cfg, inputs, out = pickle.load(open(sys.argv[1], "rb"))
train(cfg, inputs, out, Progress(quiet=True))
"""


@pytest.fixture(scope="module")
def inputs(
    tiny_data: DatasetArtifact, tiny_model: ModelArtifact, tmp_path_factory: pytest.TempPathFactory
) -> TrainInputs:
    out = tmp_path_factory.mktemp("tokens")
    return TrainInputs(
        model=tiny_model,
        tokenized=tokenize(CONFIG, TokenizeInputs(dataset=tiny_data, model=tiny_model), out, Progress(quiet=True)),
    )


@pytest.fixture(scope="module")
def trained(inputs: TrainInputs, tmp_path_factory: pytest.TempPathFactory) -> CheckpointArtifact:
    """A run that nothing disturbed."""
    return train(CONFIG, inputs, tmp_path_factory.mktemp("trained"), Progress(quiet=True))


def metrics(checkpoint: CheckpointArtifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in checkpoint.metrics_file.read_text(encoding="utf-8").splitlines()]


def ranks(out: Path) -> list[int]:
    """Processes of the training in `out`, torchrun's agent left out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "sft.adapters.instructlab.worker" in argv and str(out / "logs") in argv and "--standalone" not in argv:
            found.append(int(process.name))
    return found


def wait_for(condition: Callable[[], Any], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def running(inputs: TrainInputs, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that trains into `out`; killed at the end."""
    request = out.with_suffix(".pickle")
    request.write_bytes(pickle.dumps((CONFIG, inputs, out)))
    with subprocess.Popen([sys.executable, "-c", PARENT, str(request)], stderr=subprocess.DEVNULL) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def test_the_loss_falls_and_no_step_or_sample_is_missing(trained: CheckpointArtifact) -> None:
    rows = metrics(trained)
    steps_per_epoch = math.ceil(200 / CONFIG.effective_batch_size)
    assert [row["step"] for row in rows] == list(range(1, EPOCHS * steps_per_epoch + 1))
    assert [row["samples_seen"] for row in rows if row["step"] % steps_per_epoch == 0] == [200, 400, 600]
    assert trained.num_steps == len(rows)
    assert rows[0]["loss"] > 5  # as good as guessing among 400 tokens
    assert trained.final_loss == rows[-1]["loss"] < rows[0]["loss"] / 2


def test_the_learning_rate_follows_the_scheduler_of_the_recipe(trained: CheckpointArtifact) -> None:
    rows, total = metrics(trained), trained.num_steps
    expected = [RATE * min(n / WARMUP, (total - n) / (total - WARMUP)) for n in range(1, total + 1)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)


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


def test_a_killed_parent_takes_all_ranks_along_and_the_run_continues_to_the_same_weights(
    inputs: TrainInputs, trained: CheckpointArtifact, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    states = out / "work" / "full_state"
    with running(inputs, out) as parent:
        assert wait_for(lambda: len(ranks(out)) == 2, 60)
        assert wait_for(lambda: any(states.glob("*/.whole")) or parent.poll() is not None, 120)
        parent.kill()
        assert wait_for(lambda: not ranks(out), 5)
    newest = max(int(mark.parent.name.removeprefix("epoch_")) for mark in states.glob("*/.whole"))
    cut_short = states / f"epoch_{newest + 1}"
    cut_short.mkdir(exist_ok=True)
    (cut_short / "optimizer.bin").write_bytes(b"the kill came while this was written")
    continued = train(CONFIG, inputs, out, Progress(quiet=True))
    assert sha256_file(continued.model_dir / "model.safetensors") == sha256_file(
        trained.model_dir / "model.safetensors"
    )
    assert f"Loading state from: {states / f'epoch_{newest}'}" in (out / "logs" / "train.log").read_text(
        encoding="utf-8"
    )
    assert [(row["step"], row["loss"]) for row in metrics(continued)] == [
        (row["step"], row["loss"]) for row in metrics(trained)
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_parent_takes_all_ranks_down(
    number: signal.Signals, inputs: TrainInputs, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with running(inputs, out) as parent:
        assert wait_for(lambda: len(ranks(out)) == 2, 60)
        parent.send_signal(number)
        assert parent.wait(30) != 0
        assert wait_for(lambda: not ranks(out), 5)


def test_a_killed_rank_is_named(inputs: TrainInputs, tmp_path: Path) -> None:
    def kill_one(text: str) -> None:
        os.kill(min(ranks(tmp_path)), signal.SIGKILL)

    progress = Progress(quiet=True)
    progress.update = kill_one  # type: ignore[method-assign] # called once steps are made
    with pytest.raises(StageError, match=r"rank \d was killed by SIGKILL") as caught:
        train(CONFIG, inputs, tmp_path, progress)
    assert "training.max_tokens_per_gpu" in str(caught.value.fix)


def test_a_rank_that_fails_is_quoted_and_not_torchruns_summary(inputs: TrainInputs, tmp_path: Path) -> None:
    root, out = tmp_path / "tokens", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    beyond = {"input_ids": [0, 1, 10**6, 2], "labels": [-100, -100, 10**6, 2], "len": 4}
    (root / "data.jsonl").write_text(json.dumps(beyond) + "\n", encoding="utf-8")
    counts = {"num_samples": 1, "num_tokens": 4, "num_loss_tokens": 2, "longest_tokens": 4}
    broken = TrainInputs(model=inputs.model, tokenized=TokenizedArtifact(root=root, **counts))
    with pytest.raises(StageError, match="training failed: IndexError: index out of range") as caught:
        train(CONFIG, broken, out, Progress(quiet=True))
    assert caught.value.log is not None
    assert "Traceback" in caught.value.log.read_text(encoding="utf-8")


def test_a_run_stopped_before_its_publication_is_finished_without_training(
    trained: CheckpointArtifact, inputs: TrainInputs
) -> None:
    (trained.root / "work").mkdir()
    started = time.monotonic()
    again = train(CONFIG, inputs, trained.root, Progress(quiet=True))
    assert time.monotonic() - started < 1
    assert again == trained
    assert not (trained.root / "work").exists()
