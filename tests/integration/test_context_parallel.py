"""Ranks that share rows (`training.context_parallel`) train what one rank with whole rows does: losses, weights, counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import CheckpointArtifact
from sft.config.schema import FsdpConfig, GradientCheckpointing, LauncherConfig, LoraConfig
from sft.progress import Progress
from sft.stages.train import TrainInputs
from tests.support.training import changed, metrics, train

pytestmark = [
    pytest.mark.slow,
    # Warned while transformers and peft are imported.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
ROW = 256
"""Tokens of a row, whoever shares it: of ten samples or so, one of which lies on the border between two ranks."""
CLOSE = 1e-5
COUNTS = ("step", "samples_seen", "num_tokens", "num_loss_tokens", "learning_rate")


def trained(folder: Path, inputs: TrainInputs, ranks: int, to_a_row: int, **settings: Any) -> CheckpointArtifact:
    """A training of one epoch in fp32, with an epsilon at which AdamW does not divide noise by noise."""
    folder.mkdir(exist_ok=True)
    own = {
        "num_epochs": 1,
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-5,
        "validation_split": 0.1,
        "validation_frequency": 3,
        "context_parallel": to_a_row,
        "max_tokens_per_gpu": ROW // to_a_row,
        "launcher": LauncherConfig(procs_per_worker=ranks),
    }
    return train(changed(**{**own, **settings}), inputs, folder, Progress(quiet=True))


def weights(checkpoint: CheckpointArtifact) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(checkpoint.model_dir / "model.safetensors")


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def check_equal(one: CheckpointArtifact, other: CheckpointArtifact) -> None:
    rows, others = metrics(one.root), metrics(other.root)
    for row, alike in zip(rows, others, strict=True):
        assert {name: row[name] for name in COUNTS} == {name: alike[name] for name in COUNTS}
        more_padding = row["num_padded_tokens"] - alike["num_padded_tokens"]  # rows are multiples of 16 on each rank
        assert 0 <= more_padding <= 0.1 * row["num_padded_tokens"]
        assert row["loss"] == pytest.approx(alike["loss"], abs=CLOSE)
        assert row["gradient_norm"] == pytest.approx(alike["gradient_norm"], abs=CLOSE)
        assert row.get("num_validation_tokens") == alike.get("num_validation_tokens")
        if "validation_loss" in row:
            assert row["validation_loss"] == pytest.approx(alike["validation_loss"], abs=CLOSE)
    assert sum("validation_loss" in row for row in rows) == 2
    print("weights", furthest(weights(one), weights(other)), "loss", max(abs(a["loss"]-b["loss"]) for a,b in zip(rows, others)))
    assert furthest(weights(one), weights(other)) < CLOSE


@pytest.fixture(scope="module")
def on_one_rank(train_inputs: TrainInputs, tmp_path_factory: pytest.TempPathFactory) -> CheckpointArtifact:
    return trained(tmp_path_factory.mktemp("one"), train_inputs, 1, 1)


def test_two_ranks_that_share_rows_train_as_one_rank(
    on_one_rank: CheckpointArtifact, train_inputs: TrainInputs, tmp_path: Path
) -> None:
    shared = trained(tmp_path, train_inputs, 2, 2, gradient_checkpointing=GradientCheckpointing.full)
    check_equal(shared, on_one_rank)
    from safetensors.torch import load_file

    base = load_file(train_inputs.model.model_dir / "model.safetensors")
    assert furthest(weights(shared), base) > 100 * CLOSE
    assert shared.ran_on == "2 ranks, 2 to a row"


def test_four_ranks_of_which_two_share_rows_train_as_two_ranks(train_inputs: TrainInputs, tmp_path: Path) -> None:
    shared = trained(tmp_path / "four", train_inputs, 4, 2)
    check_equal(shared, trained(tmp_path / "two", train_inputs, 2, 1))
