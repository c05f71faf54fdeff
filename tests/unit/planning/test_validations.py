"""What a plan says of sets that are validated."""

from __future__ import annotations

from pathlib import Path

from sft.artifacts import TokenizedArtifact
from sft.config.schema import TrainingConfig
from sft.planning.validations import validated_sets

TOKENS = TokenizedArtifact(
    root=Path(), num_rows=1200, num_samples=1200, num_tokens=90_000, num_loss_tokens=30_000, longest_tokens=99
)


def test_a_plan_names_the_sets_their_sizes_and_when_they_are_validated() -> None:
    both = TrainingConfig(validation_sets=["gold", "chat"], validation_frequency=20)
    assert [*validated_sets(both, {"tokenize:gold:labels": TOKENS})] == [
        "validates  gold (1,200 samples, 30,000 tokens for the loss), chat, each by itself, every 20 steps and after "
        "the last (training.validation_sets)"
    ]
    assert [*validated_sets(TrainingConfig(validation_sets=["gold"]), {})] == [
        "validates  gold, at the end of each epoch (training.validation_sets)"
    ]
    assert [*validated_sets(TrainingConfig(), {})] == []
