"""Owns NEFTune: noise on the embeddings while training (arXiv:2310.05914), scaled by each sample's own length."""

from __future__ import annotations

from typing import Any

from sft.adapters.instructlab.rank.context_parallel import SHARE
from sft.adapters.instructlab.rank.copies import to_device
from sft.errors import StageError


class SampleLengths:
    """The lengths of the samples in the minibatch that is computed next.

    Attributes:
        are_wanted: Whether there is noise to scale.
        of_tokens: For each token the length of its sample, of shape (rows, tokens); None = not said.
    """

    def __init__(self) -> None:
        self.are_wanted = False
        self.of_tokens: Any = None

    def note(self, minibatch: dict[str, Any], device: Any) -> None:
        """Take the lengths from a minibatch."""
        if self.are_wanted:
            self.of_tokens = to_device(SHARE.stretch(lengths_of_tokens(minibatch)), device)


LENGTHS = SampleLengths()
"""This rank's: the embeddings are far from where a minibatch is known."""


def lengths_of_tokens(minibatch: dict[str, Any]) -> Any:
    """Return for each token of a minibatch, padding included, the length of its sample.

    Args:
        minibatch: With ``sample_lengths`` of a packed row, or with ``attention_mask``.
    """
    import torch

    if "sample_lengths" in minibatch:
        lengths = torch.tensor(minibatch["sample_lengths"])
        return lengths.repeat_interleave(lengths)[None]
    mask = minibatch["attention_mask"]
    return mask.sum(-1, keepdim=True).expand(mask.shape)


def add_noisy_embeddings(model: Any, noise_alpha: float | None = None) -> Any:
    """Trap 15, utils.py:142@0.16.2: NEFTune knows three model classes, and scales by all tokens of a minibatch.

    Add uniform noise of ``alpha / sqrt(tokens x width)`` to each sample's embeddings while training (arXiv:2310.05914,
    section 2). Remove it when upstream takes any model.

    Args:
        model: A causal language model.
        noise_alpha: None or 0 = no noise.
    """

    def add_noise(module: Any, _inputs: Any, embedded: Any) -> Any:
        if not module.training:
            return embedded
        lengths = LENGTHS.of_tokens
        if lengths is None or lengths.shape != embedded.shape[:-1]:
            raise StageError("training.neftune_alpha: the lengths of this minibatch's samples are not known")
        size = noise_alpha / (lengths * embedded.shape[-1]).sqrt().unsqueeze(-1)
        return embedded + embedded.new_empty(embedded.shape).uniform_(-1, 1) * size.to(embedded.dtype)

    if noise_alpha:
        LENGTHS.are_wanted = True
        model.get_input_embeddings().register_forward_hook(add_noise)
    return model
