"""Which samples of the held-out split are scored: those that passed the tokenizer's rules, or a seeded draw of them.

A sample's rank is its salted digest, and the lowest ranks are drawn. So a draw is unbiased whatever the order of the
file, a draw of 100 is part of a draw of 200, and the base and the tuned model are scored on the same samples.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash


@dataclass(frozen=True)
class HeldOutSample:
    """The samples to score.

    Attributes:
        places: Their places in the file, from 0, ascending.
        digest: sha256 over what they hold, in any order.
    """

    places: tuple[int, ...]
    digest: str


def draw(file: Path, *, limit: int | None, seed: int, left_out: Collection[int]) -> HeldOutSample:
    """Draw samples from a held-out split.

    Args:
        file: The split, a sample per line.
        limit: How many; None = all that are not left out.
        seed: Of the ranks.
        left_out: Places of the samples that broke a rule of the tokenizer, from 0.
    """
    ranked = _ranked(file, seed, left_out)
    drawn = heapq.nsmallest(limit, ranked) if limit is not None else list(ranked)
    digests = "".join(sorted(digest.hex() for digest, _ in drawn))
    return HeldOutSample(
        tuple(sorted(place for _, place in drawn)), hashlib.sha256(f"{seed} {digests}".encode()).hexdigest()
    )


def _ranked(file: Path, seed: int, left_out: Collection[int]) -> Iterator[tuple[bytes, int]]:
    seed &= 0xFFFFFFFFFFFFFFFF
    with file.open("rb") as lines:
        for place, line in enumerate(lines):
            if place not in left_out:
                yield xxhash.xxh3_128_digest(line.rstrip(b"\n"), seed), place
