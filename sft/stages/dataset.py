"""The dataset stage: a source in, checked and split chat samples out.

One pass reads every row, checks it and writes it in canonical form; a second routes the canonical lines to
``train.jsonl`` and ``eval.jsonl``. A sample's place depends on its content and `dataset.seed` only, so the split
holds the same samples for any order of the source's rows. Memory is 16 bytes per row, whatever the rows' size.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from sft.adapters import source
from sft.adapters.readers import Row
from sft.adapters.source import Source
from sft.artifacts import DatasetArtifact
from sft.chat.formats import Columns, Format, Parse, parser, recognise
from sft.chat.rejected import Rejected, Rejections
from sft.chat.sample import InvalidRow, encode
from sft.config.schema import DatasetConfig, DatasetFormat, OnInvalid
from sft.errors import DataError
from sft.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SAY_EVERY_ROWS = 20_000
_BUFFER_BYTES = 1 << 20
_UNUSED, _TRAIN, _EVAL, _DUPLICATE, _OVERLAP = range(5)


def sources_of(cfg: DatasetConfig) -> list[Source]:
    """The training source, and the evaluation source where there is one."""
    train = Source(uri=cfg.uri, split=cfg.split, options=cfg.storage_options)
    return [train, replace(train, uri=cfg.eval_uri, split=cfg.eval_split)] if cfg.eval_uri else [train]


def source_version(cfg: DatasetConfig) -> str:
    """What changes when a source may have changed.

    Raises:
        DataError: A source is not there or can't be reached.
    """
    return "|".join(source.version(one) for one in sources_of(cfg))


def download(cfg: DatasetConfig) -> str | None:
    """What fetching the sources will download, in words; None where nothing is."""
    names = [f"dataset {one.name}" for one in sources_of(cfg) if source.is_download(one)]
    return ", ".join(names) or None


def dataset(cfg: DatasetConfig, out: Path, progress: Progress) -> DatasetArtifact:
    """Fetches, checks and splits.

    Args:
        cfg: The dataset settings.
        out: Private staging folder; what an earlier try has fetched stays in it.
        progress: The run's display.

    Raises:
        DataError: A source can't be read; rows break rules and `dataset.on_invalid=error`; a split is empty.
    """
    fetched, samples = out / "source", out / "samples.part"
    versions = []
    with samples.open("wb", _BUFFER_BYTES) as accepted, (out / "rejected.jsonl").open("wb") as rejected:
        checked = _Checked(cfg=cfg, accepted=accepted, rejected=rejected, progress=progress)
        for number, one in enumerate(sources_of(cfg)):
            versions.append(source.version(one))
            checked.read(source.files(one, versions[-1], fetched / str(number), progress.update))
            if number == 0:
                checked.num_from_train = len(checked.digests) // 2
    if checked.rejections and cfg.on_invalid is OnInvalid.error:
        fix = "mend the rows, or leave them out: dataset.on_invalid=drop"
        raise checked.rejections.error(checked.num_rows, fix)
    places = _places(checked, cfg)
    _route(samples, places, out)
    samples.unlink()
    shutil.rmtree(fetched, ignore_errors=True)
    counts = Counter(places.tolist())
    result = DatasetArtifact(
        root=out,
        source=" and ".join(one.name for one in sources_of(cfg)),
        source_version="|".join(versions),
        row_format=", ".join(sorted(checked.formats)),
        num_rows=checked.num_rows,
        num_train=counts[_TRAIN],
        num_eval=counts[_EVAL],
        num_rejected=len(checked.rejections),
        num_duplicates=counts[_DUPLICATE],
        num_overlap=counts[_OVERLAP],
        num_unused=counts[_UNUSED],
    )
    if result.num_rows != result.num_accounted:
        raise AssertionError(f"{result.num_rows} rows came in, {result.num_accounted} are accounted for")
    progress.say(f"  {summary(result)}")
    return result


def summary(data: DatasetArtifact) -> str:
    """Where every row went, in a line."""
    parts = {
        "rejected": data.num_rejected,
        "duplicates": data.num_duplicates,
        "held out already": data.num_overlap,
        "unused": data.num_unused,
    }
    shown = [f"{data.num_train} train", f"{data.num_eval} held out", *(f"{n} {what}" for what, n in parts.items() if n)]
    return f"{data.num_rows} rows of {data.row_format} = {' + '.join(shown)}"


@dataclass
class _Checked:
    """What the first pass has seen so far."""

    cfg: DatasetConfig
    accepted: IO[bytes]
    rejected: IO[bytes]
    progress: Progress
    digests: array[int] = field(default_factory=lambda: array("Q"))  # two words per accepted row
    num_from_train: int = 0  # accepted rows before those of the evaluation source
    formats: set[str] = field(default_factory=set)
    num_rows: int = 0
    rejections: Rejections = field(default_factory=Rejections)

    def read(self, files: Iterator[tuple[str, Iterator[Row]]]) -> None:
        """Checks every row of a source."""
        salt = self.cfg.seed.to_bytes(8, "little", signed=True)
        keeps_columns = bool(self.cfg.keep_columns)
        parse: Parse | None = None
        accept, note = self.accepted.write, self.digests.frombytes
        for name, rows in files:
            for line, row in rows:
                self.num_rows += 1
                if self.num_rows % _SAY_EVERY_ROWS == 0:
                    self.progress.update(f"{self.num_rows:,} rows")
                try:
                    if parse is None:
                        parse = self._parser(row)
                    sample = parse(row)
                except InvalidRow as error:
                    refused = Rejected(name, line, error.rule, error.found, row.decode(errors="replace"))
                    self.rejected.write(self.rejections.add(refused))
                    continue
                text = encode(sample)
                compared = encode(msgspec.structs.replace(sample, metadata=msgspec.UNSET)) if keeps_columns else text
                note(hashlib.blake2b(compared, digest_size=16, salt=salt).digest())
                accept(text + b"\n")

    def _parser(self, row: bytes) -> Parse:
        """A parser for the format that a row shows."""
        names = self.cfg.columns
        columns = Columns(
            messages=names.messages, prompt=names.prompt, completion=names.completion, keep=tuple(self.cfg.keep_columns)
        )
        given: Format | None = None if self.cfg.format is DatasetFormat.auto else self.cfg.format.value
        row_format, columns = recognise(row, columns, given)
        self.formats.add(row_format)
        return parser(row_format, columns, system_prompt=self.cfg.system_prompt)


def _places(checked: _Checked, cfg: DatasetConfig) -> NDArray[np.uint8]:
    """Where each accepted row goes: the samples are ranked by their salted digest, which no row order changes.

    Raises:
        DataError: There is nothing to train on, or the asked for evaluation split would be empty.
    """
    import numpy as np

    words = np.frombuffer(checked.digests, dtype=np.uint64).reshape(-1, 2)
    from_eval = np.arange(len(words)) >= checked.num_from_train
    for origin, one in enumerate(sources_of(cfg)):
        if not (from_eval == bool(origin)).any():
            raise DataError(f"dataset.{'eval_' * origin}uri={one.name}: no valid row", fix="check uri, format, columns")
    order = np.lexsort((np.arange(len(words)), ~from_eval, words[:, 1], words[:, 0]))
    ranked, held = words[order], from_eval[order]
    again = np.zeros(len(words), dtype=bool)
    again[1:] = (ranked[1:] == ranked[:-1]).all(axis=1)
    first = np.maximum.accumulate(np.where(again, 0, np.arange(len(words))))  # of the equal ones
    places = np.full(len(words), _UNUSED, dtype=np.uint8)
    places[order[again]] = np.where(held[first] & ~held, _OVERLAP, _DUPLICATE)[again]
    places[order[~again & held]] = _EVAL
    used = order[~again & ~held][: cfg.max_samples]
    num_train = len(used) if cfg.eval_uri else round(len(used) * cfg.train_split)
    if num_train == 0 or (cfg.train_split < 1.0 and not cfg.eval_uri and num_train == len(used)):
        empty = "train" if num_train == 0 else "evaluation"
        rule = f"dataset.train_split={cfg.train_split} of {len(used)} samples leaves the {empty} split empty"
        raise DataError(rule, fix="dataset.train_split=1.0 trains on everything, or give more data")
    places[used[:num_train]] = _TRAIN
    places[used[num_train:]] = _EVAL
    return places


def _route(samples: Path, places: NDArray[np.uint8], out: Path) -> None:
    for name, place in (("train.jsonl", _TRAIN), ("eval.jsonl", _EVAL)):
        chosen = (places == place).tobytes()
        with samples.open("rb", _BUFFER_BYTES) as lines, (out / name).open("wb", _BUFFER_BYTES) as target:
            target.writelines(itertools.compress(lines, chosen))
