"""What of `training.validation_sets` is measured while a training goes on, as a plan says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sft.artifacts import Artifact, TokenizedArtifact
from sft.config.schema import TrainingConfig
from sft.planning.plan import tokens_to_validate


def validated_sets(cfg: TrainingConfig, have: Mapping[str, Artifact]) -> Iterator[str]:
    """Yield which held-out sets are validated, and when; nothing where none is.

    Args:
        cfg: The training settings.
        have: What is done already.
    """
    if not cfg.validation_sets:
        return
    sets = ", ".join(f"{name}{_size(have.get(tokens_to_validate(name)))}" for name in cfg.validation_sets)
    frequency = cfg.validation_frequency
    when = f"every {frequency} steps and after the last" if frequency else "at the end of each epoch"
    by_itself = ", each by itself" if len(cfg.validation_sets) > 1 else ""
    yield f"validates  {sets}{by_itself}, {when} (training.validation_sets)"


def _size(tokens: Artifact | None) -> str:
    if not isinstance(tokens, TokenizedArtifact):
        return ""
    return f" ({tokens.num_samples:,} samples, {tokens.num_loss_tokens:,} tokens for the loss)"
