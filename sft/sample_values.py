"""Owns what a score is made of: for each sample the sum and the count whose ratio the score is, in ``values.jsonl``.

Two models that answered the same samples are compared sample by sample (`sft.paired`), which needs these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import msgspec

NAME = "values.jsonl"


class SampleValues(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The values of one score, a line of ``values.jsonl``.

    The score is sum(`sums`) / sum(`counts`), or the exponential of that: a mean over samples, tokens or turns.

    Attributes:
        score: Its name, ``task.metric``.
        units: Which sample each value is of: a document's number, a held-out conversation's place, a group's subtask.
        sums: The metric summed over each unit.
        counts: What it is summed over: tokens, turns; empty = 1 for each unit.
        clusters: What units have in common where they are not independent, as a prompt; empty = nothing.
        is_exponential: Whether the score is the exponential of the ratio: a perplexity.
    """

    score: str
    units: list[int | str]
    sums: list[float]
    counts: list[float] = []
    clusters: list[int | str] = []
    is_exponential: bool = False

    @property
    def ratio(self) -> float:
        """Sum of the values over their count."""
        return math.fsum(self.sums) / (math.fsum(self.counts) if self.counts else len(self.sums))

    @property
    def value(self) -> float:
        """The score."""
        return math.exp(self.ratio) if self.is_exponential else self.ratio


def append(folder: Path, values: Iterable[SampleValues]) -> None:
    """Add scores to the ``values.jsonl`` of an evaluation."""
    with (folder / NAME).open("ab") as file:
        for line in values:
            file.write(msgspec.json.encode(line) + b"\n")


def read(folder: Path) -> dict[str, SampleValues]:
    """Return the values of each score by its name; a score that is no mean over samples has none.

    Raises:
        FileNotFoundError: The evaluation kept none.
    """
    decode = msgspec.json.Decoder(SampleValues).decode
    with (folder / NAME).open("rb") as file:
        return {values.score: values for values in map(decode, file)}
