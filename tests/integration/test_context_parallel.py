"""Ranks that share rows (`training.context_parallel`) train what one rank with whole rows does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import CheckpointArtifact
from sft.config.schema import GradientCheckpointing, LauncherConfig, LoraConfig, TrainingConfig
from sft.planning.resources import resolve_resources
from sft.progress import Progress
from sft.stages.earlier_states import take_over
from sft.stages.training_task import TrainInputs
from tests.support.training import changed, metrics, ranks, running, steps_done, train, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
    # Warned while transformers and peft are imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
FULL, SELECTIVE = GradientCheckpointing.full, GradientCheckpointing.selective
ROW = 256
"""Tokens of a row, whoever shares it: of ten samples or so, one of which lies on the border between two ranks."""
CLOSE = 1e-5
COUNTS = ("step", "samples_seen", "num_tokens", "num_loss_tokens", "learning_rate")


def config(num_ranks: int, to_a_row: int, **settings: Any) -> TrainingConfig:
    """A training of one epoch in fp32, with an epsilon at which AdamW does not divide noise by noise."""
    own = {
        "num_epochs": 1,
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-5,
        "validation_split": 0.1,
        "validation_frequency": 3,
        "context_parallel": to_a_row,
        "max_tokens_per_gpu": ROW // to_a_row,
        "launcher": LauncherConfig(procs_per_worker=num_ranks),
    }
    return changed(**{**own, **settings})


def trained(folder: Path, inputs: TrainInputs, num_ranks: int, to_a_row: int, **settings: Any) -> CheckpointArtifact:
    folder.mkdir(exist_ok=True)
    return train(config(num_ranks, to_a_row, **settings), inputs, folder, Progress(quiet=True))


def weights(model_dir: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(model_dir / "model.safetensors")


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def check_equal(one: CheckpointArtifact, other: CheckpointArtifact) -> None:
    rows, others = metrics(one.root), metrics(other.root)
    for row, alike in zip(rows, others, strict=True):
        assert {name: row[name] for name in COUNTS} == {name: alike[name] for name in COUNTS}
        # Rows are filled up to 16 tokens on each rank: counted once, they are about as many on any ranks.
        assert row["num_padded_tokens"] == pytest.approx(alike["num_padded_tokens"], rel=0.1, abs=100)
        assert row["loss"] == pytest.approx(alike["loss"], abs=CLOSE)
        assert row["gradient_norm"] == pytest.approx(alike["gradient_norm"], abs=CLOSE)
        assert row.get("num_validation_tokens") == alike.get("num_validation_tokens")
        if "validation_loss" in row:
            assert row["validation_loss"] == pytest.approx(alike["validation_loss"], abs=CLOSE)
    assert sum("validation_loss" in row for row in rows) == 2
    assert furthest(weights(one.model_dir), weights(other.model_dir)) < CLOSE


@pytest.fixture(scope="module")
def on_one_rank(train_inputs: TrainInputs, tmp_path_factory: pytest.TempPathFactory) -> CheckpointArtifact:
    return trained(tmp_path_factory.mktemp("one"), train_inputs, 1, 1)


@pytest.mark.long
def test_two_ranks_that_share_rows_train_as_one_rank(
    on_one_rank: CheckpointArtifact, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    shared = trained(tmp_path, train_inputs, 2, 2, gradient_checkpointing=FULL)
    check_equal(shared, on_one_rank)
    assert furthest(weights(shared.model_dir), weights(train_inputs.model.model_dir)) > 100 * CLOSE
    assert shared.ran_on == "2 ranks, 2 to a row"


@pytest.mark.exhaustive
def test_four_ranks_of_which_two_share_rows_train_as_two_ranks(train_inputs: TrainInputs, tmp_path: Path) -> None:
    shared = trained(tmp_path / "four", train_inputs, 4, 2)
    check_equal(shared, trained(tmp_path / "two", train_inputs, 2, 1))


@pytest.mark.exhaustive
def test_adapters_of_shared_rows_are_those_of_whole_ones(train_inputs: TrainInputs, tmp_path: Path) -> None:
    lora = {"lora": LoraConfig(rank=4, alpha=8, dropout=0.0), "learning_rate": 1e-2}
    shared = trained(tmp_path / "shared", train_inputs, 2, 2, gradient_checkpointing=SELECTIVE, **lora)
    check_equal(shared, trained(tmp_path / "whole", train_inputs, 1, 1, **lora))
    assert furthest(weights(shared.model_dir), weights(train_inputs.model.model_dir)) > 100 * CLOSE


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@pytest.mark.parametrize("to_a_row", [2, 1])
def test_a_run_continues_with_other_ranks_to_a_row(
    to_a_row: int, on_one_rank: CheckpointArtifact, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    inputs, before, after = replace(train_inputs, state_id="this training"), tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        folder.mkdir()
    with running(config(2, to_a_row, checkpoint_every_steps=1), inputs, before) as parent:
        assert wait_for(lambda: steps_done(before) >= 3 or parent.poll() is not None, 240)
        parent.kill()
        assert wait_for(lambda: not ranks(before), 5)
    cfg = config(2, 3 - to_a_row)
    taken = take_over([before], after, inputs.state_id, resolve_resources(cfg))
    on, then = ("2 ranks, 2 to a row", "2 ranks") if to_a_row == 2 else ("2 ranks", "2 ranks, 2 to a row")
    assert taken is not None
    assert taken.endswith(f", saved on {on}")
    continued = train(cfg, inputs, after, Progress(quiet=True))
    check_equal(continued, on_one_rank)
    step = continued.stretches[1]["from_step"]
    assert step >= 2
    assert continued.ran_on == f"{on}, from step {step + 1} on {then}"
