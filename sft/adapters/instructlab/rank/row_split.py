"""Owns which samples are validated where a row became several: all of its samples train, or none of them.

The library divides samples (sampler.py:474@0.16.2), whose row it doesn't know: a validated sample could be a part of a
document that trains, or the beginning of a conversation that does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.errors import StageError


def validated_samples(rows: Sequence[int], num_wanted: int, seed: int) -> list[int]:
    """Return the places of the samples that are validated, in order.

    Rows are drawn one after the other; one with more samples than are still wanted is passed over.

    Args:
        rows: The row of each sample.
        num_wanted: How many samples are to be validated at most.
        seed: Of the drawing.
    """
    import numpy as np

    own = np.asarray(rows)
    names, sizes = np.unique(own, return_counts=True)
    drawn, left = [], num_wanted
    for place in np.random.default_rng(seed).permutation(len(names)).tolist():
        if sizes[place] <= left:
            drawn.append(names[place])
            left -= int(sizes[place])
        if not left:
            break
    places: list[int] = np.flatnonzero(np.isin(own, drawn)).tolist()
    return places


def patches(rows_file: str) -> list[tuple[object, str, object]]:
    """Return what has the library divide rows and not samples; nothing where each row is one sample.

    Args:
        rows_file: Holds the row of each sample, a line each; empty = each sample is a row.
    """
    if not rows_file:
        return []
    from instructlab.training import sampler

    upstream = sampler.TokenDataset.load_and_split

    def load_and_split(data_path: str, validation_split: float = 0.0, seed: int = 42) -> tuple[Any, Any]:
        whole, nothing = upstream(data_path, 0.0, seed)
        if not validation_split:
            return whole, nothing
        rows = [int(line) for line in Path(rows_file).read_bytes().splitlines()]
        if len(rows) != len(whole):
            raise AssertionError(f"{rows_file} tells of {len(rows)} samples, and there are {len(whole)}")
        places = validated_samples(rows, math.ceil(validation_split * len(rows)), seed)
        if not places:
            raise StageError(
                f"training.validation_split={validation_split:g} takes {math.ceil(validation_split * len(rows))} of "
                f"{len(rows)} samples, and each row has more, which stay together",
                fix="raise it, or hold rows out: dataset.train_split, eval.holdouts",
            )
        validated = set(places)
        trained = [place for place in range(len(rows)) if place not in validated]
        return _part(whole, trained), _part(whole, places)

    return [(sampler.TokenDataset, "load_and_split", load_and_split)]


def _part(whole: Any, places: list[int]) -> Any:
    """Return the library's dataset of some of its samples."""
    part = object.__new__(type(whole))
    part.dataset, part.lengths = whole.dataset.select(places), whole.lengths[places]
    return part
