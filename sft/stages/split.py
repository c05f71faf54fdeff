"""The split of a dataset: exact as far as groups allow, the same for any order of rows, written while they come in.

Samples of one group (the same prompt, say) go to the same half. A group's rank is its salted digest; the groups of
lowest rank train. How many that will be is known only at the end, but the rank at which training ends is known closely
all along: of n uniform ranks, the share p lies within ``3 / sqrt(n)`` of p (six standard deviations of an order
statistic, at most ``0.5 / sqrt(n)`` each). So each sample is written to its half at once, but for about
``12 * sqrt(n)`` near the border, which wait. Where that is not the whole story (duplicates, `max_samples`, large
groups) the files are written once more.

Samples may come from several sources, one after the other: a sample that two of them have is the first one's, and each
may have a `max_samples` of its own.

`max_samples` takes the samples whose own digests have the lowest second words, which are independent of the groups'
ranks: a smaller subset is part of a larger one, and holds the same shares of both halves.

Memory: 24 bytes per sample for its digests, 16 more at the end, 48 where there are duplicates.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNUSED, TRAIN, EVAL, DUPLICATE, OVERLAP = range(5)
"""Where a sample goes. `OVERLAP`: its group stands in the separate evaluation set."""

TRAIN_NAME, EVAL_NAME = "train.jsonl", "eval.jsonl"
_BUFFER_BYTES = 1 << 20
_WHOLE = 2.0**64
_LAST = 2.0**64 - 2.0**12  # the largest rank that a float and 64 bits both hold, near enough


@dataclass(frozen=True)
class SourceCounts:
    """How many samples of a source went where."""

    num_train: int
    num_eval: int
    num_duplicates: int
    num_overlap: int
    num_unused: int


@dataclass(frozen=True)
class Counts(SourceCounts):
    """How many samples went where, and how many groups of the training sources' samples were divided."""

    num_groups: int


class Split:
    """Write ``train.jsonl`` and ``eval.jsonl`` into a folder.

    Args:
        out: The folder.
        seed: Of the ranks.
        train_split: Share that trains, in (0, 1].
        max_samples: How many are used; None = all.
        has_eval_source: Whether the held-out samples come separately (`add` with ``held_out``).
    """

    def __init__(
        self, out: Path, *, seed: int, train_split: float, max_samples: int | None, has_eval_source: bool
    ) -> None:
        self._out = out
        self._seed = seed & 0xFFFFFFFFFFFFFFFF
        self._share = 1.0 if has_eval_source else train_split
        self._max_samples = max_samples
        self._digests = array("Q")  # two words per sample
        self._groups = array("Q")  # one word per sample: its group's rank
        self._written = bytearray()  # TRAIN, EVAL, or UNUSED for one that waits, per sample
        self._waiting: list[bytes] = []
        self._num_from_train = 0
        self._begins: list[int] = []  # of the sources, in samples
        self._limits: list[int | None] = []  # of their samples
        self._places_of_all: NDArray[np.uint8] | None = None
        self._train = (out / TRAIN_NAME).open("wb", _BUFFER_BYTES)
        self._eval = (out / EVAL_NAME).open("wb", _BUFFER_BYTES)

    def close(self) -> None:
        """Close the files, whatever happened."""
        self._train.close()
        self._eval.close()

    def begin_source(self, max_samples: int | None = None) -> None:
        """Count what is added from here on as another source's, of which at most `max_samples` are used."""
        self._begins.append(len(self._written))
        self._limits.append(max_samples)

    def add(
        self,
        lines: Sequence[bytes],
        compared: Sequence[bytes],
        groups: Sequence[bytes] | None = None,
        *,
        held_out: bool = False,
    ) -> None:
        """Take samples in.

        Args:
            lines: Their JSON.
            compared: What makes two of them the same, one per sample.
            groups: What they must have in common to go to the same half, one per sample; None = `compared`.
            held_out: Whether they come from the separate evaluation set, after all others.
        """
        import numpy as np

        seed, digest = self._seed, xxhash.xxh3_128_digest
        words = b"".join([digest(text, seed) for text in compared])
        self._digests.frombytes(words)
        if groups is None:
            ranks = np.frombuffer(words, dtype=np.uint64)[::2]
        else:
            rank = xxhash.xxh3_64_digest
            ranks = np.frombuffer(b"".join([rank(text, seed) for text in groups]), dtype=np.uint64)
        self._groups.frombytes(ranks.tobytes())
        if held_out or self._share == 1.0:
            self._write(self._eval if held_out else self._train, lines)
            self._written += bytes([EVAL if held_out else TRAIN]) * len(lines)
        else:
            margin = 3 / math.sqrt(len(self._written) + 1)
            trains = ranks < np.uint64(max(0.0, self._share - margin) * _WHOLE)
            evaluates = ranks > np.uint64(min(_LAST, (self._share + margin) * _WHOLE))
            codes = (trains * np.uint8(TRAIN) + evaluates * np.uint8(EVAL)).tobytes()
            self._write(self._train, list(itertools.compress(lines, trains.tobytes())))
            self._write(self._eval, list(itertools.compress(lines, evaluates.tobytes())))
            if UNUSED in codes:
                self._waiting += [line for line, code in zip(lines, codes, strict=True) if code == UNUSED]
            self._written += codes
        if not held_out:
            self._num_from_train = len(self._written)

    @staticmethod
    def _write(target: IO[bytes], lines: Sequence[bytes]) -> None:
        if lines:
            target.write(b"\n".join(lines) + b"\n")

    @property
    def num_samples(self) -> int:
        """Return how many samples were taken in so far."""
        return len(self._written)

    def finish(self) -> Counts:
        """Put every sample into its file, whatever was guessed on the way."""
        import numpy as np

        self.close()
        written = np.frombuffer(self._written, dtype=np.uint8)
        places, num_groups = self._places()
        self._places_of_all = places
        guessed = written != UNUSED
        if (places[guessed] == written[guessed]).all():
            self._append(places[~guessed])
        else:
            self._write_again(written, places)
        return Counts(**vars(_counted(places)), num_groups=num_groups)

    def by_source(self) -> list[SourceCounts]:
        """Return how many samples of each source went where, once the split is finished."""
        import numpy as np

        if self._places_of_all is None:
            raise AssertionError("the split is not finished")
        return [_counted(part) for part in np.split(self._places_of_all, self._begins)[1:]]

    def _places(self) -> tuple[NDArray[np.uint8], int]:
        """Return where each sample goes, and how many groups were divided."""
        import numpy as np

        groups = np.frombuffer(self._groups, dtype=np.uint64)
        has_eval_source = self._num_from_train < len(groups)
        takes_all = self._max_samples is None and not any(self._limits)
        if takes_all and not has_eval_source and not self._has_duplicates():
            return self._halves(groups)
        return self._places_with_duplicates(groups)

    def _has_duplicates(self) -> bool:
        import numpy as np

        ordered = np.sort(np.frombuffer(self._digests, dtype=np.uint64)[::2])
        return bool((ordered[1:] == ordered[:-1]).any())

    def _halves(self, groups: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], int]:
        """Return `TRAIN` or `EVAL` for samples of these groups, and how many groups there are.

        The share that trains is the nearest possible one; of two groups or more, neither half gets none.
        """
        import numpy as np

        ordered = np.sort(groups)
        begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, np.intp)
        wanted = round(len(ordered) * self._share)
        if wanted == len(ordered) or (wanted and len(begins) == 1):
            return np.full(len(groups), TRAIN, dtype=np.uint8), len(begins)
        borders = begins[1:] if wanted else begins
        border = ordered[borders[np.abs(borders - wanted).argmin()]]
        return np.where(groups < border, TRAIN, EVAL).astype(np.uint8), len(begins)

    def _places_with_duplicates(self, groups: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], int]:
        import numpy as np

        words = np.frombuffer(self._digests, dtype=np.uint64).reshape(-1, 2)
        held = np.arange(len(words)) >= self._num_from_train
        order = np.lexsort((np.arange(len(words)), groups, ~held, words[:, 1], words[:, 0]))
        ranked = words[order]
        places = np.full(len(words), UNUSED, dtype=np.uint8)
        places[order[1:][(ranked[1:] == ranked[:-1]).all(axis=1)]] = DUPLICATE
        places[~held & np.isin(groups, groups[held])] = OVERLAP
        places[held & (places == UNUSED)] = EVAL
        used = order[(places == UNUSED)[order]]
        used = used[np.argsort(words[used, 1], kind="stable")]
        used = self._within_limits(used)[: self._max_samples]
        places[used], num_groups = self._halves(groups[used])
        return places, num_groups

    def _within_limits(self, used: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return samples in their order, without those beyond their source's limit."""
        import numpy as np

        if not any(self._limits):
            return used
        of_source = np.searchsorted(self._begins, used, side="right") - 1
        kept = np.ones(len(used), dtype=bool)
        for number, limit in enumerate(self._limits):
            if limit is not None:
                kept[np.flatnonzero(of_source == number)[limit:]] = False
        return used[kept]

    def _append(self, places: NDArray[np.uint8]) -> None:
        for name, place in ((TRAIN_NAME, TRAIN), (EVAL_NAME, EVAL)):
            with (self._out / name).open("ab") as target:
                target.writelines(line + b"\n" for line in itertools.compress(self._waiting, places == place))

    def _write_again(self, written: NDArray[np.uint8], places: NDArray[np.uint8]) -> None:
        """Move what was guessed wrong, and leave out what is in no half."""
        parts: list[tuple[Path, NDArray[np.uint8]]] = [
            (self._out / f"{TRAIN_NAME}.part", places[written == TRAIN]),
            (self._out / f"{EVAL_NAME}.part", places[written == EVAL]),
        ]
        (self._out / TRAIN_NAME).rename(parts[0][0])
        (self._out / EVAL_NAME).rename(parts[1][0])
        for name, place in ((TRAIN_NAME, TRAIN), (EVAL_NAME, EVAL)):
            with (self._out / name).open("wb", _BUFFER_BYTES) as target:
                for path, of_part in parts:
                    with path.open("rb", _BUFFER_BYTES) as lines:
                        target.writelines(itertools.compress(lines, of_part == place))
        self._append(places[written == UNUSED])
        for path, _ in parts:
            path.unlink()


def _counted(places: NDArray[np.uint8]) -> SourceCounts:
    import numpy as np

    counts = np.bincount(places, minlength=OVERLAP + 1).tolist()
    return SourceCounts(counts[TRAIN], counts[EVAL], counts[DUPLICATE], counts[OVERLAP], counts[UNUSED])
