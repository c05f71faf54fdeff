"""Samples as the model sees them: the tokenize stage's first ones, read back as text."""

from __future__ import annotations

from pathlib import Path

import msgspec

from sft.adapters.os.process import run_module
from sft.artifacts import LOGS_NAME, ModelArtifact, TokenizedArtifact

SHOWN = "samples.json"
"""The texts of the first samples among the logs of what the tokenize stage made."""


class Piece(msgspec.Struct, frozen=True):
    """A run of tokens.

    Attributes:
        text: What they say.
        is_loss: Whether they count for the loss.
        is_special: Whether it is one special token.
    """

    text: str
    token_ids: list[int]
    is_loss: bool
    is_special: bool


class TokenizedSample(msgspec.Struct, frozen=True):
    """One sample of the training split."""

    pieces: list[Piece]

    @property
    def num_tokens(self) -> int:
        return sum(len(piece.token_ids) for piece in self.pieces)

    @property
    def num_loss_tokens(self) -> int:
        return sum(len(piece.token_ids) for piece in self.pieces if piece.is_loss)


class _Shown(msgspec.Struct):
    samples: list[TokenizedSample]


def shown_samples(tokens: TokenizedArtifact) -> list[TokenizedSample]:
    """Return the first samples, as the tokenize stage wrote them down; none where it did not.

    Args:
        tokens: What the tokenize stage made.
    """
    try:
        return msgspec.json.decode((tokens.root / LOGS_NAME / SHOWN).read_bytes(), type=_Shown).samples
    except (FileNotFoundError, msgspec.DecodeError):  # of an earlier version of sft
        return []


def first_samples(tokens: TokenizedArtifact, base: ModelArtifact, num: int, folder: Path) -> list[TokenizedSample]:
    """Return the first samples that will be trained.

    Args:
        tokens: What the tokenize stage made.
        base: The model whose tokenizer made it.
        num: How many; fewer where there are fewer.
        folder: Private folder for the child process.

    Raises:
        StageError: The tokenizer can't be loaded.
    """
    request = {"model_dir": str(base.model_dir), "data_file": str(tokens.data_file), "num_samples": num}
    result = run_module(
        "sft.adapters.instructlab.token_texts",
        {**request, "trust_remote_code": base.trust_remote_code},
        folder=folder,
        what="reading tokens",
        env={"HF_HUB_OFFLINE": "1"},
    )
    return msgspec.convert(result["samples"], list[TokenizedSample])
