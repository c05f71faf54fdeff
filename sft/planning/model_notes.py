"""What a model's ``config.json`` says that a training must answer: how long its context is, how its routers learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from sft.artifacts import TokenizedArtifact
from sft.config.schema import TrainingConfig
from sft.errors import StageError

_TABLES_OF_POSITIONS = {"opt", "gpt_neo", "gpt_bigcode", "biogpt", "codegen", "gptj"}
"""Architectures that look positions up in a table, which ends with the context."""
_ROUTERS_TRAINED = {"gpt_oss", "granitemoehybrid"}
"""Whose routers' own loss the library adds (model.py:543@0.16.2)."""


class _Length(msgspec.Struct):
    len: int


def notes(cfg: TrainingConfig, config: Mapping[str, Any] | None, tokenized: TokenizedArtifact | None) -> Iterator[str]:
    """Yield what a training does otherwise than the model's config says, as far as that is known.

    Args:
        cfg: The training settings.
        config: The model's ``config.json``; None = not known yet.
        tokenized: The samples; None = not made yet.
    """
    if config is not None:
        yield from _of_context(cfg, config, tokenized)
        yield from _of_routers(config)


def _of_context(cfg: TrainingConfig, config: Mapping[str, Any], tokenized: TokenizedArtifact | None) -> Iterator[str]:
    limit = context_of(config)
    if limit is None:
        return
    context = f"the model's context, max_position_embeddings={limit}"
    if tokenized is None:
        if cfg.max_seq_len > limit + 1:  # a sample of max_seq_len tokens doesn't fit
            setting = f"training.max_seq_len={cfg.max_seq_len}"
            yield f"{setting} is above {context}: samples beyond it are trained and scored, too"
    elif tokenized.longest_tokens > limit:
        num = f"{num_longer(tokenized, limit):,} of {tokenized.num_samples:,} samples"
        longer = f"longer than {context}, up to {tokenized.longest_tokens:,} tokens"
        yield f"{num} are {longer}: try training.max_seq_len={limit}, or scale its positions in config.json"


def check_context(config: Mapping[str, Any], tokenized: TokenizedArtifact) -> None:
    """Refuse samples for which a model has no positions.

    Args:
        config: The model's ``config.json``.
        tokenized: The samples.

    Raises:
        StageError: It looks positions up in a table, and some samples are longer than that.
    """
    limit = context_of(config)
    if limit is not None and config.get("model_type") in _TABLES_OF_POSITIONS and tokenized.longest_tokens > limit:
        raise StageError(
            f"{num_longer(tokenized, limit):,} samples of up to {tokenized.longest_tokens:,} tokens: this "
            f"{config['model_type']} has a table of {limit:,} positions, and none for further tokens",
            fix=f"training.max_seq_len={limit}; training.on_too_long says what becomes of longer ones",
        )


def context_of(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens a model's context has, any scaling of positions included; None where it isn't said."""
    said = (part.get(name) for part in _parts(config) for name in ("max_position_embeddings", "n_positions"))
    return next((number for number in said if type(number) is int and number > 0), None)


def num_longer(tokenized: TokenizedArtifact, limit: int) -> int:
    """Return how many samples have more tokens than a limit."""
    decoder = msgspec.json.Decoder(_Length)
    with tokenized.data_file.open("rb") as lines:
        return sum(decoder.decode(line).len > limit for line in lines)


def _of_routers(config: Mapping[str, Any]) -> Iterator[str]:
    asks = any(part.get("output_router_logits") for part in _parts(config))
    if asks and config.get("model_type") not in _ROUTERS_TRAINED:
        said = "output_router_logits=true in the model's config.json is not followed"
        yield f"{said}: its routers get no loss of their own, which would spread tokens over the experts"


def _parts(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    text = config.get("text_config")
    return (config, text) if isinstance(text, Mapping) else (config,)
