"""Owns the loss by source: how much of a loss is of which of `dataset.sources`, without computing anything twice.

The loss is a sum over tokens; here each token's part is added up once more for its source. Where a dataset has one
source nothing is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sft.adapters.instructlab.rank.context_parallel import SHARE
from sft.adapters.instructlab.rank.copies import to_device


class SourceLosses:
    """The losses of this rank's tokens by source, since they were begun.

    Attributes:
        names: Of the sources; empty = losses are not told apart.
        sums: Their losses, in fp64 on the device; the first half is losses, the second numbers of tokens.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.sums: Any = None
        self._sources: Any = None
        self._place = 0

    def begin(self, device: Any) -> None:
        """Start from nothing."""
        import torch

        self.sums = torch.zeros(2 * len(self.names), dtype=torch.float64, device=device)

    def note(self, minibatch: Mapping[str, Any], places: Any, num_padding: int, device: Any) -> None:
        """Take whose token each place of a minibatch predicts; `add` follows for the same places, in their order.

        Args:
            minibatch: With ``sample_sources``, beside ``sample_lengths`` of a packed row or ``attention_mask``.
            places: Positions in the flattened minibatch whose logits enter the loss, without the padding.
            num_padding: Places that are added to them, and count for nothing.
            device: Where the losses are.
        """
        import torch

        if not self.names:
            return
        sources = SHARE.stretch(sources_of_tokens(minibatch)).flatten()[places]
        counts = torch.bincount(sources, minlength=len(self.names)).double()
        if self.sums is None:
            self.begin(device)
        self.sums[len(self.names) :] += to_device(counts, device)
        self._sources = to_device(torch.nn.functional.pad(sources, (0, num_padding)), device)
        self._place = 0

    def add(self, losses: Any) -> None:
        """Add the losses of the next places, of shape (places, 1); those that don't count are 0."""
        import torch

        if not self.names or self._sources is None:
            return
        end = self._place + len(losses)
        sources, self._place = self._sources[self._place : end], end
        every = torch.arange(len(self.names), device=losses.device)
        # A product, and no index_add: on a GPU that adds in another order each time.
        self.sums[: len(self.names)] += ((sources[:, None] == every).double() * losses.detach().double()).sum(0)


BY_SOURCE = SourceLosses()
"""This rank's: the loss is far from where a minibatch's samples are known."""


def sources_of_tokens(minibatch: Mapping[str, Any]) -> Any:
    """Return for each token of a minibatch, padding included, the index of its sample's source."""
    import torch

    sources = torch.tensor(minibatch["sample_sources"])
    if "sample_lengths" in minibatch:
        lengths = torch.tensor(minibatch["sample_lengths"])
        filled = torch.nn.functional.pad(sources, (0, len(lengths) - len(sources)))
        return filled.repeat_interleave(lengths)[None]
    return sources[:, None].expand(minibatch["input_ids"].shape)


def of_samples(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return what a minibatch says of its samples' sources; the library's dummy sample, without loss, has none."""
    return {"sample_sources": [sample.get("source", 0) for sample in samples]} if BY_SOURCE.names else {}


def means(sums: Sequence[float], names: Sequence[str], what: str) -> dict[str, float]:
    """Return the mean loss of each source that has a token, and their number, as fields of ``metrics.jsonl``.

    Args:
        sums: Losses of each source, then numbers of tokens, over all ranks.
        names: Of the sources.
        what: ``loss`` or ``validation_loss``.
    """
    losses, counts = sums[: len(names)], sums[len(names) :]
    of = "num_loss_tokens" if what == "loss" else "num_validation_tokens"
    rows = zip(names, losses, counts, strict=True)
    return {
        key: value
        for name, loss, count in rows
        if count
        for key, value in ((f"{what}.{name}", loss / count), (f"{of}.{name}", int(count)))
    }


def patches(names: Sequence[str]) -> list[tuple[object, str, object]]:
    """Return what has each sample of the library's dataset say its source; nothing where there is one source."""
    from instructlab.training import sampler

    if not names:
        return []
    indices, upstream = {name: index for index, name in enumerate(names)}, sampler.TokenDataset.__getitem__

    def with_source(self: Any, index: int) -> dict[str, Any]:
        if not hasattr(self, "sft_sources"):  # one column, read once: a row would be read whole for a word of it
            self.sft_sources = self.dataset["source"] if "source" in self.dataset.column_names else None
        sample: dict[str, Any] = upstream(self, index)
        if self.sft_sources is None:  # of a held-out set, whose losses are not told apart
            return sample
        return {**sample, "source": indices[self.sft_sources[int(index)]]}

    return [(sampler.TokenDataset, "__getitem__", with_source), (BY_SOURCE, "names", tuple(names))]
