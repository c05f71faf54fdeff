"""The dataset stage: a source in, checked and split chat samples out.

One pass reads every row, checks it and writes it in canonical form; a second routes the canonical lines to
``train.jsonl`` and ``eval.jsonl``. A sample's place depends on its content and `dataset.seed` only, so the split
holds the same samples for any order of the source's rows. Memory is 16 bytes per row, whatever the rows' size.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from sft import chat
from sft.adapters import hub, readers, storage, synthetic
from sft.adapters.process import run_module
from sft.artifacts import LOGS_NAME, DatasetArtifact
from sft.config.schema import DatasetConfig, OnInvalid
from sft.errors import DataError
from sft.logs import redact
from sft.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHOWN_PROBLEMS = 10
_SAY_EVERY_ROWS = 20_000
_UNUSED, _TRAIN, _EVAL, _DUPLICATE = range(4)


def source_version(cfg: DatasetConfig) -> str:
    """What changes when the source may have changed: file times, the server's ETag, the hub's commit.

    Raises:
        DataError: The source is not there or can't be reached.
    """
    if storage.scheme(cfg.uri) == synthetic.SCHEME:
        return f"{synthetic.VERSION}"
    if reference := _hub_reference(cfg.uri):
        return hub.commit_of(reference.repo, reference.revision, kind="dataset")
    return ";".join(f"{f.name}={f.version}" for f in storage.find(cfg.uri, cfg.storage_options))


def download(cfg: DatasetConfig) -> str | None:
    """What fetching the source will download, in words; None where nothing is."""
    if storage.scheme(cfg.uri) == synthetic.SCHEME or (storage.is_local(cfg.uri) and not _hub_reference(cfg.uri)):
        return None
    return f"dataset {redact(cfg.uri)}"


def dataset(cfg: DatasetConfig, out: Path, progress: Progress) -> DatasetArtifact:
    """Fetches, checks and splits.

    Args:
        cfg: The dataset settings.
        out: Private staging folder.
        progress: The run's display.

    Raises:
        DataError: The source can't be read; rows break rules and `dataset.on_invalid=error`; a split is empty.
    """
    version = source_version(cfg)
    samples = out / "samples.part"
    with samples.open("wb") as accepted, (out / "rejected.jsonl").open("wb") as rejected:
        checked = _Checked(accepted=accepted, rejected=rejected)
        checked.read(_rows(cfg, version, out, progress), cfg, progress)
    if checked.num_rejected and cfg.on_invalid is OnInvalid.error:
        raise _refusal(checked)
    places = _places(checked.digests, cfg)
    _route(samples, places, out)
    samples.unlink()
    counts = Counter(places.tolist())
    result = DatasetArtifact(
        root=out,
        source=redact(cfg.uri),
        source_version=version,
        num_rows=checked.num_rows,
        num_train=counts[_TRAIN],
        num_eval=counts[_EVAL],
        num_rejected=checked.num_rejected,
        num_duplicates=counts[_DUPLICATE],
        num_unused=counts[_UNUSED],
    )
    progress.say(_summary(result))
    return result


def _summary(data: DatasetArtifact) -> str:
    others = {"rejected": data.num_rejected, "duplicates": data.num_duplicates, "unused": data.num_unused}
    parts = [
        f"{data.num_train} train",
        f"{data.num_eval} held out",
        *(f"{n} {what}" for what, n in others.items() if n),
    ]
    return f"  {data.num_rows} rows = {' + '.join(parts)}"


def _hub_reference(uri: str) -> hub.Reference | None:
    """A hub dataset: ``hf://…``, or a bare ``org/name`` that is no path here."""
    if storage.scheme(uri) == "hf":
        return hub.parse(uri)
    bare = not storage.scheme(uri) and uri.count("/") == 1 and not uri.startswith((".", "/", "~"))
    if not bare or storage.local_path(uri).exists() or readers.supported(uri) or "*" in uri:
        return None
    return hub.parse(uri)


def _rows(cfg: DatasetConfig, version: str, out: Path, progress: Progress) -> Iterator[tuple[str, readers.Row]]:
    """Name of the file and row, for each row of the source."""
    made = out / "source.jsonl"
    options: dict[str, Any] = {}
    if storage.scheme(cfg.uri) == synthetic.SCHEME:
        synthetic.write(cfg.uri, made)
        files = storage.find(str(made), options)
    elif reference := _hub_reference(cfg.uri):
        request = {"repo": reference.repo, "config": reference.config, "commit": version, "split": cfg.split}
        progress.update(f"fetching {reference.repo}")
        folder = out / LOGS_NAME / "hub"
        run_module("sft.adapters.hub", {**request, "target": str(made)}, folder=folder, what=f"fetching {cfg.uri}")
        files = storage.find(str(made), options)
    else:
        options = cfg.storage_options
        files = storage.find(cfg.uri, options)
    for file in files:
        with storage.opened(file, options) as stream:
            name = redact(cfg.uri if file.name == str(made) else file.name)
            for row in readers.rows(file.name, stream):
                yield name, row
    made.unlink(missing_ok=True)


class _Rejected(msgspec.Struct):
    """One line of ``rejected.jsonl``."""

    file: str
    line: int
    rule: str
    found: str
    row: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.found}; {chat.RULES[self.rule]}"


@dataclass
class _Checked:
    """What the first pass has seen so far."""

    accepted: IO[bytes]
    rejected: IO[bytes]
    digests: array[int] = field(default_factory=lambda: array("Q"))  # two words per accepted row
    num_rows: int = 0
    by_rule: Counter[str] = field(default_factory=Counter)
    first: list[_Rejected] = field(default_factory=list)

    @property
    def num_rejected(self) -> int:
        return self.by_rule.total()

    def read(self, rows: Iterator[tuple[str, readers.Row]], cfg: DatasetConfig, progress: Progress) -> None:
        columns = {"messages": cfg.columns.messages, "prompt": cfg.columns.prompt, "completion": cfg.columns.completion}
        parse = chat.parser(cfg.format.value, columns, cfg.system_prompt)
        salt = cfg.seed.to_bytes(8, "little", signed=True)
        for name, (line, row) in rows:
            self.num_rows += 1
            if self.num_rows % _SAY_EVERY_ROWS == 0:
                progress.update(f"{self.num_rows:,} rows")
            try:
                sample = chat.encode(parse(row))
            except chat.InvalidRow as error:
                self._reject(_Rejected(name, line, error.rule, error.found, row.decode(errors="replace")))
                continue
            self.digests.frombytes(hashlib.blake2b(sample, digest_size=16, salt=salt).digest())
            self.accepted.write(sample + b"\n")

    def _reject(self, row: _Rejected) -> None:
        self.by_rule[row.rule] += 1
        if len(self.first) < _SHOWN_PROBLEMS:
            self.first.append(row)
        self.rejected.write(msgspec.json.encode(row) + b"\n")


def _refusal(checked: _Checked) -> DataError:
    counts = ", ".join(f"{count} {rule}" for rule, count in checked.by_rule.most_common())
    shown = "\n".join(f"  {row}" for row in checked.first)
    more = checked.num_rejected - len(checked.first)
    tail = f"\n  … and {more} more" if more else ""
    message = f"{checked.num_rejected} of {checked.num_rows} rows are invalid ({counts})\n{shown}{tail}"
    return DataError(message, fix="mend the rows, or leave them out: dataset.on_invalid=drop")


def _places(digests: array[int], cfg: DatasetConfig) -> NDArray[np.uint8]:
    """Where each accepted row goes: the samples are ranked by their salted digest, which no row order changes.

    Raises:
        DataError: There is nothing to train on, or the asked for evaluation split would be empty.
    """
    import numpy as np

    words = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    if not len(words):
        raise DataError(f"dataset.uri={redact(cfg.uri)}: no valid row", fix="check the uri, format and columns")
    order = np.lexsort((np.arange(len(words)), words[:, 1], words[:, 0]))
    ranked = words[order]
    again = np.zeros(len(words), dtype=bool)
    again[1:] = (ranked[1:] == ranked[:-1]).all(axis=1)
    places = np.full(len(words), _UNUSED, dtype=np.uint8)
    places[order[again]] = _DUPLICATE
    used = order[~again][: cfg.max_samples]
    num_train = round(len(used) * cfg.train_split)
    if num_train == 0 or (cfg.train_split < 1.0 and num_train == len(used)):
        empty = "train" if num_train == 0 else "evaluation"
        rule = f"dataset.train_split={cfg.train_split} of {len(used)} samples leaves the {empty} split empty"
        raise DataError(rule, fix="dataset.train_split=1.0 trains on everything, or give more data")
    places[used[:num_train]] = _TRAIN
    places[used[num_train:]] = _EVAL
    return places


def _route(samples: Path, places: NDArray[np.uint8], out: Path) -> None:
    with (
        samples.open("rb") as lines,
        (out / "train.jsonl").open("wb") as train,
        (out / "eval.jsonl").open("wb") as held,
    ):
        for line, place in zip(lines, places.tolist(), strict=True):
            if place == _TRAIN:
                train.write(line)
            elif place == _EVAL:
                held.write(line)
