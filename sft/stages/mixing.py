"""Tokenized samples of several sources, mixed: each as often as `sft.planning.mixing` says. One line is in memory,
besides 9 bytes per sample.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import xxhash

from sft.chat.loss import NO_LOSS
from sft.chat.source_name import source_of
from sft.planning.mixing import Mix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BUFFER_BYTES = 1 << 20


class _Tokens(msgspec.Struct):
    labels: list[int]
    len: int


@dataclass(kw_only=True)
class MixedSource:
    """What of a source is in the mix.

    Attributes:
        samples: Those that there are.
        used: Those that are in the mix, each time that they are.
        left_out: Those that are not.
        repeated: How many of `used` are copies.
        tokens: Of `used`.
        loss_tokens: Those of them that count for the loss.
    """

    samples: int = 0
    used: int = 0
    left_out: int = 0
    repeated: int = 0
    tokens: int = 0
    loss_tokens: int = 0


def mix(file: Path, how: Mix, rows: Path | None = None) -> dict[str, MixedSource]:
    """Rewrite tokenized samples so that each is there as often as the mix wants it, copies one after the other.

    Which samples of a source are there once more than others depends on their content and the seed alone, and those of
    a smaller share are among those of a larger one.

    Args:
        file: A sample a line, whose last field names its source.
        how: The mix.
        rows: A line for each sample, its row's number, which is rewritten likewise; None = there are none.

    Raises:
        DataError: As of `Mix.counts`.
    """
    numbers = {name: number for number, name in enumerate(how.weights)}
    of, ranks = bytearray(), array("Q")
    with file.open("rb", _BUFFER_BYTES) as lines:
        for line in lines:
            of.append(numbers[source_of(line)])
            ranks.append(xxhash.xxh3_64_intdigest(line, how.seed))
    times = _times(of, ranks, [*numbers], how)
    sources = {name: MixedSource() for name in numbers}
    decode, mixed = msgspec.json.Decoder(_Tokens).decode, file.with_name(f"{file.name}.mixed")
    names = [*numbers]
    with file.open("rb", _BUFFER_BYTES) as lines, mixed.open("wb", _BUFFER_BYTES) as target:
        for number, count, line in zip(of, times.tolist(), lines, strict=True):
            _count(sources[names[number]], count, decode(line) if count else None)
            target.write(line * count)
    mixed.replace(file)
    if rows is not None:
        _rewrite(rows, times)
    return sources


def _rewrite(rows: Path, times: NDArray[np.int64]) -> None:
    """Repeat or leave out the lines of a file as the samples were."""
    mixed = rows.with_name(f"{rows.name}.mixed")
    with rows.open("rb", _BUFFER_BYTES) as lines, mixed.open("wb", _BUFFER_BYTES) as target:
        for count, line in zip(times.tolist(), lines, strict=True):
            target.write(line * count)
    mixed.replace(rows)


def _times(of: bytearray, ranks: array[int], names: list[str], how: Mix) -> NDArray[np.int64]:
    """Return how often each sample is in the mix."""
    import numpy as np

    sources, ordered = np.frombuffer(of, dtype=np.uint8), np.frombuffer(ranks, dtype=np.uint64)
    places = [np.flatnonzero(sources == number) for number in range(len(names))]
    counts = how.counts({name: len(own) for name, own in zip(names, places, strict=True)})
    times = np.zeros(len(of), dtype=np.int64)
    for name, own in zip(names, places, strict=True):
        if len(own):
            whole, rest = divmod(counts[name], len(own))
            times[own] = whole
            times[own[np.argsort(ordered[own], kind="stable")[:rest]]] += 1
    return times


def _count(source: MixedSource, count: int, tokens: _Tokens | None) -> None:
    source.samples += 1
    if tokens is None:
        source.left_out += 1
        return
    source.used += count
    source.repeated += count - 1
    source.tokens += count * tokens.len
    source.loss_tokens += count * (tokens.len - tokens.labels.count(NO_LOSS))
