"""How many samples of each source of a mix train: arithmetic alone, the same before and after the rows are tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from sft.config.schema import DatasetConfig, Mixing, MixingStop
from sft.errors import DataError

MOST_TIMES = 1_000
"""How often a source may be repeated: beyond, a weight is a mistake, and would fill a disk."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How the sources of a dataset are mixed.

    Attributes:
        weights: Of each source, in their order.
        epochs: How often each source's samples are there, where they are concatenated.
        seed: Of which samples are there once more, or once less, than others.
    """

    mixing: Mixing = Mixing.concatenate
    temperature: float = 1.0
    stop: MixingStop = MixingStop.first_exhausted
    weights: Mapping[str, float] = field(default_factory=dict)
    epochs: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def of(cls, cfg: DatasetConfig) -> Mix | None:
        """Return the mix of a dataset; None where it has no named sources."""
        if not cfg.sources:
            return None
        return cls(
            mixing=cfg.mixing,
            temperature=cfg.mixing_temperature,
            stop=cfg.stop,
            weights={name: 1.0 if own.weight is None else own.weight for name, own in cfg.sources.items()},
            epochs={name: 1.0 if own.epochs is None else own.epochs for name, own in cfg.sources.items()},
            seed=cfg.seed,
        )

    def counts(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return how many samples of each source are in an epoch, repeated ones each time.

        Concatenated, source i has ``n_i * epochs_i``. By shares ``s_i`` (the weights; with a temperature T
        ``weight_i * n_i ** (1 / T)``) it has ``s_i * n_k / s_k``, where k is the source with the least ``n_k / s_k``
        (`first_exhausted`) or the most (`all_exhausted`). Halves are rounded up.

        Args:
            sizes: Samples of each source, ``n_i``.

        Raises:
            DataError: A source without a sample has a share, or one would be repeated too often.
        """
        if self.mixing is Mixing.concatenate:
            return {name: _rounded(size * self.epochs[name]) for name, size in sizes.items()}
        for name, size in sizes.items():
            if not size:
                fix = "give it more rows, or take it out of dataset.sources"
                raise DataError(f"dataset.sources.{name}: no sample to train on, so that it has no share", fix=fix)
        shares = {name: self._share(name, size) for name, size in sizes.items()}
        choose = min if self.stop is MixingStop.first_exhausted else max
        last = choose(sizes, key=lambda name: sizes[name] / shares[name])
        counts = {name: _rounded(shares[name] / shares[last] * sizes[last]) for name in sizes}
        for name, count in counts.items():
            if count > MOST_TIMES * sizes[name]:
                times = f"{count / sizes[name]:,.0f} times"
                fix = "set its weight lower, or dataset.stop=first_exhausted"
                raise DataError(
                    f"dataset.sources.{name}: would be repeated {times}, of at most {MOST_TIMES:,}", fix=fix
                )
            if not count:
                fix = "set its weight higher, or dataset.stop=all_exhausted"
                raise DataError(f"dataset.sources.{name}: its share of the mix is less than half a sample", fix=fix)
        return counts

    def _share(self, name: str, size: int) -> float:
        if self.mixing is Mixing.proportional:
            return self.weights[name]
        return self.weights[name] * math.pow(size, 1 / self.temperature)


def _rounded(number: float) -> int:
    return math.floor(number + 0.5)
