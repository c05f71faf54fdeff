"""How many models on the way lie on the disk at the end."""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.schema import SelectConfig, TrainingConfig
from sft.planning.kept_models import kept_models


@pytest.mark.parametrize(
    ("settings", "num_trained", "number"),
    [
        ({"num_epochs": 20}, None, 19),
        ({"num_epochs": 20, "checkpoint_limit": 3}, None, 3),
        ({"num_epochs": 2, "checkpoint_limit": 3}, None, 1),
        ({"num_epochs": 20, "select": SelectConfig(metric="validation_loss")}, None, 20),
        ({"num_epochs": 20, "checkpoint_at_epoch": False}, None, 0),
        ({"save_samples": 100}, None, None),
        ({"save_samples": 100, "checkpoint_limit": 2}, None, 2),
        ({"save_samples": 100, "num_epochs": 2}, 250, 1 + 5),
        ({"max_steps": 5}, None, None),
        ({"max_steps": 5, "effective_batch_size": 100}, 250, 1),
    ],
)
def test_a_trainings_models_are_counted(settings: dict[str, Any], num_trained: int | None, number: int | None) -> None:
    assert kept_models(TrainingConfig(**settings), num_trained) == number
