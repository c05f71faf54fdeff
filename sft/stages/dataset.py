"""The dataset stage: a source in, checked and split chat samples out.

Every row is read, checked and written once, a batch at a time, in its canonical form; `sft.stages.split` knows which
half it belongs to.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO

import msgspec

from sft.adapters import source
from sft.adapters.row_batches import Batch
from sft.adapters.source import Source, SourceFacts
from sft.adapters.split_names import Wanted
from sft.artifacts import LOGS_NAME, DatasetArtifact
from sft.chat.formats import Format, ParsedRow, Parser, recognise
from sft.chat.rejected import Rejected, Rejections
from sft.chat.row_reader import Columns
from sft.chat.sample import InvalidRow, encode
from sft.chat.unread import UnreadFields
from sft.config.schema import DatasetConfig, DatasetFormat, OnInvalid
from sft.errors import DataError
from sft.progress import Progress
from sft.stages import decontaminate
from sft.stages.decontaminate import NO_TASKS, EvaluationTasks
from sft.stages.grouping import ROW, Grouping
from sft.stages.split import Split


def sources_of(cfg: DatasetConfig) -> list[Source]:
    """Return the training source, if there is one, and the evaluation source, if there is one."""
    train = Source(
        uri=cfg.uri,
        wanted=Wanted(cfg.split),
        ignored=tuple(cfg.ignore_fields),
        options=cfg.storage_options,
        max_bytes=cfg.max_download_bytes,
        follow_links=cfg.follow_links,
    )
    held_out = Wanted(cfg.eval_split, held_out=True)
    held_out_source = [replace(train, uri=cfg.eval_uri, wanted=held_out)] if cfg.eval_uri else []
    return [train, *held_out_source] if cfg.uri else held_out_source


def source_version(cfg: DatasetConfig) -> str:
    """Return what changes when a source may have changed.

    Raises:
        DataError: A source is not there or can't be reached.
    """
    return "|".join(source.version(origin) for origin in sources_of(cfg))


def download(cfg: DatasetConfig) -> str | None:
    """Return what fetching the sources will download, in words; None where nothing is."""
    names = [f"dataset {origin.name}" for origin in sources_of(cfg) if source.is_download(origin)]
    return ", ".join(names) or None


def dataset(
    cfg: DatasetConfig,
    out: Path,
    progress: Progress,
    tasks: EvaluationTasks = NO_TASKS,
    held_out_sets: Mapping[str, Path] = MappingProxyType({}),
) -> DatasetArtifact:
    """Fetch, check and split, and drop what the evaluation holds where `dataset.decontaminate` says so.

    Args:
        cfg: The dataset settings. Without `uri` there is only the evaluation set.
        out: Private staging folder; what an earlier try has fetched stays in it.
        progress: The run's display.
        tasks: The lm-eval tasks on which the model will be scored.
        held_out_sets: The samples of further held-out sets on which it will be, by name.

    Raises:
        DataError: A source can't be read; rows break rules and `dataset.on_invalid=error`; a split is empty.
        StageError: The documents of a task can't be had.
    """
    fetched, versions = out / "source", []
    facts = SourceFacts()
    split = Split(
        out,
        seed=cfg.seed,
        train_split=cfg.train_split,
        max_samples=cfg.max_samples,
        has_eval_source=cfg.eval_uri is not None,
    )
    with closing(split), (out / "rejected.jsonl").open("wb") as rejected:
        checked = _Checked(cfg=cfg, split=split, rejected=rejected, progress=progress, grouping=Grouping(cfg.split_by))
        for number, origin in enumerate(sources_of(cfg)):
            versions.append(source.version(origin))
            num_before = split.num_samples
            files = source.files(origin, versions[-1], fetched / str(number), progress.update, facts)
            held_out = origin.wanted.held_out
            checked.read(files, held_out=held_out)
            if split.num_samples == num_before and not checked.rejections:
                raise DataError(f"dataset.{'eval_' * held_out}uri={origin.name}: no row", fix="check the uri")
    if not split.num_samples or (checked.rejections.num_errors and cfg.on_invalid is OnInvalid.error):
        fix = "mend the rows, or leave them out: dataset.on_invalid=drop"
        raise checked.rejections.error(checked.num_rows, fix)
    counts = split.finish()
    shutil.rmtree(fetched, ignore_errors=True)
    num_contaminated = _decontaminate(out, tasks, held_out_sets, progress) if cfg.decontaminate else 0
    data = DatasetArtifact(
        root=out,
        source=" and ".join(origin.name for origin in sources_of(cfg)),
        source_version="|".join(versions),
        source_files=facts.digests,
        row_format=", ".join(sorted(checked.formats)),
        split_by=cfg.split_by,
        num_rows=checked.num_rows,
        num_rejected=len(checked.rejections),
        num_contaminated=num_contaminated,
        unread_fields=checked.unread.counts,
        notes=[*facts.notes, *checked.notes()],
        **{**asdict(counts), "num_train": counts.num_train - num_contaminated},
    )
    if data.num_rows != data.num_accounted:
        raise AssertionError(f"{data.num_rows} rows came in, {data.num_accounted} are accounted for")
    _check_halves(data, cfg)
    left_out = f"left out: {checked.rejections.counts}" if checked.rejections else ""
    for line in filter(None, (summary(data), left_out)):
        progress.say(f"  {line}")
    for note in data.notes:
        progress.note(note)
    return data


def _decontaminate(out: Path, tasks: EvaluationTasks, held_out_sets: Mapping[str, Path], progress: Progress) -> int:
    progress.update("looking for text of the evaluation")
    num_dropped, contamination = decontaminate.drop(out, tasks, held_out_sets, out / LOGS_NAME)
    for line in contamination.lines():
        progress.say(f"  {line}")
    return num_dropped


def _check_halves(data: DatasetArtifact, cfg: DatasetConfig) -> None:
    if data.num_contaminated and not data.num_train:
        what = f"each of {data.num_contaminated} training samples shares text with what the model is scored on"
        fix = f"look into {decontaminate.CONTAMINATED_NAME}, or dataset.decontaminate=false"
        raise DataError(f"dataset.decontaminate=true: {what}", fix=fix)
    wants_eval = cfg.train_split < 1.0 or cfg.eval_uri is not None
    if (data.num_train or not cfg.uri) and (data.num_eval or not wants_eval):
        return
    empty = "evaluation" if data.num_train else "train"
    of = f"{data.num_train + data.num_eval} samples"
    fix = "dataset.train_split=1.0 trains on everything, or give more data"
    if data.split_by != ROW:
        of += f" in {_groups(data)} (dataset.split_by={data.split_by})"
        fix += ", or divide single rows: dataset.split_by=row"
    raise DataError(f"dataset.train_split={cfg.train_split} of {of} leaves the {empty} split empty", fix=fix)


def summary(data: DatasetArtifact) -> str:
    """Return where every row went, in a line."""
    parts = {
        "rejected": data.num_rejected,
        "duplicates": data.num_duplicates,
        "held out already": data.num_overlap,
        "unused": data.num_unused,
        "contaminated": data.num_contaminated,
    }
    groups = f", {_groups(data)} by {data.split_by}" if data.split_by != ROW else ""
    train = [f"{data.num_train} train"] if data.num_train else []
    shown = [*train, f"{data.num_eval} held out", *(f"{n} {what}" for what, n in parts.items() if n)]
    return f"{data.num_rows} rows of {data.row_format} = {' + '.join(shown)}{groups}"


def _groups(data: DatasetArtifact) -> str:
    return f"{data.num_groups:,} group{'s' * (data.num_groups != 1)}"


@dataclass
class _Checked:
    """Checks rows, and keeps what they were so far."""

    cfg: DatasetConfig
    split: Split
    rejected: IO[bytes]
    progress: Progress
    grouping: Grouping
    formats: set[str] = field(default_factory=set)
    num_rows: int = 0
    rejections: Rejections = field(default_factory=Rejections)
    unread: UnreadFields = field(default_factory=UnreadFields)
    seen: set[str] = field(default_factory=set)

    def read(self, files: Iterator[tuple[str, Iterator[Batch]]], *, held_out: bool) -> None:
        """Check every row of a source."""
        parser: Parser | None = None
        for name, batches in files:
            for number, rows in batches:
                self.progress.update(f"{self.num_rows:,} rows")
                plain = parser.many(rows) if parser and self.grouping.column is None else None
                if plain is not None:
                    self.num_rows += len(plain.lines)
                    groups = self.grouping.of_samples(plain.lines)
                    self.split.add(plain.lines, plain.lines, groups, held_out=held_out)
                    for column, (num_rows, first) in plain.passed_over.items():
                        self._note(column, num_rows, f"{name}:{number + first}")
                    continue
                parser, parsed, groups = self._one_by_one(parser, name, number, rows)
                lines = [row.line for row in parsed]
                bare = self._compared(parsed) if self.cfg.keep_columns else lines
                groups = groups if self.grouping.column is not None else self.grouping.of_samples(bare)
                self.split.add(lines, bare, groups, held_out=held_out)

    @staticmethod
    def _compared(parsed: Sequence[ParsedRow]) -> list[bytes]:
        """Return what makes two rows the same: all but the columns that were kept."""
        return [encode(msgspec.structs.replace(row.sample, metadata=msgspec.UNSET)) for row in parsed]

    def notes(self) -> list[str]:
        """Say which fields were not read, and which settings name fields that no row has."""
        named = {"keep_columns": self.cfg.keep_columns, "ignore_fields": self.cfg.ignore_fields}
        absent = [(key, name) for key, names in named.items() for name in names if name not in self.seen]
        return [
            *self.unread.notes(self.num_rows),
            *(f"dataset.{key}=[{name}] does nothing: no row has `{name}`" for key, name in absent),
        ]

    def _note(self, column: str, num_rows: int, first: str) -> None:
        """Count a field that isn't read, unless the recipe leaves it out."""
        if column in self.cfg.ignore_fields:
            self.seen.add(column)
        else:
            self.unread.add(column, num_rows, first)

    def _one_by_one(
        self, parser: Parser | None, name: str, number: int, rows: bytes
    ) -> tuple[Parser | None, list[ParsedRow], list[bytes] | None]:
        """Return the valid rows of a batch, with their groups where a column says them; note the others.

        The first row that shows a format decides it.
        """
        parsed, groups = [], []
        for line, row in enumerate(rows.split(b"\n"), start=number):
            if not row or row.isspace():
                continue
            self.num_rows += 1
            try:
                parser = parser or self._parser(row)
                row_read = parser.one(row)
                if self.grouping.column is not None:
                    groups.append(self.grouping.of_row(row))
                parsed.append(row_read)
            except InvalidRow as error:
                refused = Rejected(name, line, error.rule, error.found, row.decode(errors="replace"))
                self.rejected.write(self.rejections.add(refused))
                continue
            for unread in row_read.unread:
                self._note(unread, 1, f"{name}:{line}")
            self.seen |= row_read.ignored
            self.seen.update(row_read.sample.metadata or ())
        return parser, parsed, groups

    def _parser(self, row: bytes) -> Parser:
        """Return a parser for the format that a row shows."""
        names = self.cfg.columns
        columns = Columns(
            messages=names.messages,
            prompt=names.prompt,
            completion=names.completion,
            keep=tuple(self.cfg.keep_columns),
            ignore=frozenset(self.cfg.ignore_fields),
            used=frozenset(filter(None, [self.grouping.column])),
        )
        given: Format | None = None if self.cfg.format is DatasetFormat.auto else self.cfg.format.value
        row_format, columns = recognise(row, columns, given)
        self.formats.add(row_format)
        takes_preferences = self.cfg.format is DatasetFormat.preference
        return Parser(row_format, columns, system_prompt=self.cfg.system_prompt, takes_preferences=takes_preferences)
