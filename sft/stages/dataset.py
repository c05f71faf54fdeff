"""The dataset stage: sources in, checked and split chat samples out.

Every row is read, checked and written once, a batch at a time, in its canonical form; `sft.stages.split` knows which
half it belongs to.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO

import msgspec

from sft.adapters import source
from sft.adapters.row_batches import Batch
from sft.adapters.source import SourceFacts
from sft.artifacts import LOGS_NAME, DatasetArtifact
from sft.chat.formats import Format, ParsedRow, Parser, recognise
from sft.chat.rejected import Rejected, Rejections
from sft.chat.row_reader import Columns
from sft.chat.sample import InvalidRow, encode
from sft.chat.source_name import count_sources, naming
from sft.chat.unread import UnreadFields
from sft.config.schema import DatasetConfig, DatasetFormat, OnInvalid
from sft.errors import DataError
from sft.progress import Progress
from sft.stages import decontaminate
from sft.stages.decontaminate import NO_TASKS, EvaluationTasks
from sft.stages.grouping import ROW, Grouping
from sft.stages.sources import Origin, origins_of
from sft.stages.split import Split


def dataset(
    cfg: DatasetConfig,
    out: Path,
    progress: Progress,
    tasks: EvaluationTasks = NO_TASKS,
    held_out_sets: Mapping[str, Path] = MappingProxyType({}),
) -> DatasetArtifact:
    """Fetch, check and split, and drop what the evaluation holds where `dataset.decontaminate` says so.

    Args:
        cfg: The dataset settings. Without `uri` and `sources` there is only the evaluation set.
        out: Private staging folder; what an earlier try has fetched stays in it.
        progress: The run's display.
        tasks: The lm-eval tasks on which the model will be scored.
        held_out_sets: The samples of further held-out sets on which it will be, by name.

    Raises:
        DataError: A source can't be read; rows break rules and `dataset.on_invalid=error`; a split is empty.
        StageError: The documents of a task can't be had.
    """
    fetched, versions = out / "source", []
    origins, facts = origins_of(cfg), SourceFacts()
    split = Split(
        out,
        seed=cfg.seed,
        train_split=cfg.train_split,
        max_samples=cfg.max_samples,
        has_eval_source=cfg.eval_uri is not None,
    )
    with closing(split), (out / "rejected.jsonl").open("wb") as rejected:
        checked = _Checked(cfg=cfg, split=split, rejected=rejected, progress=progress)
        for number, origin in enumerate(origins):
            with origin.speaking():
                versions.append(source.version(origin.source))
                files = source.files(origin.source, versions[-1], fetched / str(number), progress.update, facts)
                if not checked.read(files, origin):
                    raise DataError(
                        f"{origin.key}={origin.source.name}: no row",
                        fix="is the file empty, or the wrong one? it needs a row at least",
                    )
    if not split.num_samples or (checked.rejections.num_errors and cfg.on_invalid is OnInvalid.error):
        fix = "mend the rows, or leave them out: dataset.on_invalid=drop"
        raise checked.rejections.error(checked.num_rows, fix)
    counts = split.finish()
    shutil.rmtree(fetched, ignore_errors=True)
    num_contaminated = _decontaminate(out, tasks, held_out_sets, progress) if cfg.decontaminate else 0
    in_mix = [origin for origin in origins if origin.name]
    data = DatasetArtifact(
        root=out,
        source=" and ".join(origin.source.name for origin in origins),
        source_version="|".join(versions),
        source_files=facts.digests,
        row_format=", ".join(sorted(checked.formats)),
        split_by=cfg.split_by,
        num_rows=checked.num_rows,
        num_rejected=len(checked.rejections),
        num_contaminated=num_contaminated,
        unread_fields=checked.unread.counts,
        notes=[*facts.notes, *checked.notes()],
        sources=_by_source(in_mix, checked, split, out) if in_mix else {},
        **{**asdict(counts), "num_train": counts.num_train - num_contaminated},
    )
    if data.num_rows != data.num_accounted:
        raise AssertionError(f"{data.num_rows} rows came in, {data.num_accounted} are accounted for")
    _check_halves(data, cfg)
    left_out = f"left out: {checked.rejections.counts}" if checked.rejections else ""
    for line in filter(None, (summary(data), *(f"  {line}" for line in source_lines(data.sources)), left_out)):
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


def _by_source(origins: Sequence[Origin], checked: _Checked, split: Split, out: Path) -> dict[str, dict[str, int]]:
    """Return where the rows of each named source went; the parts of one add up to its ``rows``."""
    contaminated = out / decontaminate.CONTAMINATED_NAME
    taken_out = count_sources(contaminated, nested=True) if contaminated.exists() else Counter[str]()
    return {
        origin.name: {
            "rows": checked.rows_of[origin.name],
            "train": counts.num_train - taken_out[origin.name],
            "held_out": counts.num_eval,
            "rejected": checked.rejected_of[origin.name],
            "duplicates": counts.num_duplicates,
            "held_out_already": counts.num_overlap,
            "unused": counts.num_unused,
            "contaminated": taken_out[origin.name],
        }
        for origin, counts in zip(origins, split.by_source(), strict=False)  # the evaluation source comes last
    }


def source_lines(sources: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield a line for each named source: where its rows went."""
    for name, counts in sources.items():
        parts = " + ".join(
            f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items() if count and what != "rows"
        )
        yield f"{name}: {counts['rows']:,} rows = {parts}"


def _check_halves(data: DatasetArtifact, cfg: DatasetConfig) -> None:
    if data.num_contaminated and not data.num_train:
        what = f"each of {data.num_contaminated} training samples shares text with what the model is scored on"
        fix = f"look into {decontaminate.CONTAMINATED_NAME}, or dataset.decontaminate=false"
        raise DataError(f"dataset.decontaminate=true: {what}", fix=fix)
    wants_eval = cfg.train_split < 1.0 or cfg.eval_uri is not None
    wants_train = cfg.uri or cfg.sources
    if (data.num_train or not wants_train) and (data.num_eval or not wants_eval):
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
    formats: set[str] = field(default_factory=set)
    num_rows: int = 0
    rejections: Rejections = field(default_factory=Rejections)
    unread: UnreadFields = field(default_factory=UnreadFields)
    seen: set[str] = field(default_factory=set)
    rows_of: Counter[str] = field(default_factory=Counter)
    rejected_of: Counter[str] = field(default_factory=Counter)
    origin: Origin = field(init=False)
    grouping: Grouping = field(init=False)

    def read(self, files: Iterator[tuple[str, Iterator[Batch]]], origin: Origin) -> int:
        """Check every row of a source, and return how many there were."""
        self.origin, self.grouping = origin, Grouping(self.cfg.split_by)
        self.split.begin_source(origin.max_samples)
        num_before = self.num_rows
        self._read(files)
        self.rows_of[origin.name] += self.num_rows - num_before
        return self.num_rows - num_before

    def _read(self, files: Iterator[tuple[str, Iterator[Batch]]]) -> None:
        parser: Parser | None = None
        held_out = self.origin.is_held_out
        for name, batches in files:
            for number, rows in batches:
                self.progress.update(f"{self.num_rows:,} rows")
                plain = parser.many(rows) if parser and self.grouping.column is None else None
                if plain is not None:
                    self.num_rows += len(plain.lines)
                    groups = self.grouping.of_samples(plain.lines)
                    self.split.add(self._named(plain.lines), plain.lines, groups, held_out=held_out)
                    for column, (num_rows, first) in plain.passed_over.items():
                        self._note(column, num_rows, f"{name}:{number + first}")
                    continue
                parser, parsed, groups = self._one_by_one(parser, name, number, rows)
                lines = [row.line for row in parsed]
                bare = self._compared(parsed) if self.cfg.keep_columns else lines
                groups = groups if self.grouping.column is not None else self.grouping.of_samples(bare)
                self.split.add(self._named(lines), bare, groups, held_out=held_out)

    def _named(self, lines: list[bytes]) -> list[bytes]:
        """Return samples with their source's name, if it has one."""
        if not self.origin.name:
            return lines
        tail = naming(self.origin.name)
        return [line[:-1] + tail for line in lines]

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
                of, text = self.origin.name, row.decode(errors="replace")
                refused = Rejected(name, line, error.rule, error.found, text, source=of)
                self.rejected.write(self.rejections.add(refused))
                self.rejected_of[of] += 1
                continue
            for unread in row_read.unread:
                self._note(unread, 1, f"{name}:{line}")
            self.seen |= row_read.ignored
            self.seen.update(row_read.sample.metadata or ())
        return parser, parsed, groups

    def _parser(self, row: bytes) -> Parser:
        """Return a parser for the format that a row shows."""
        names, wanted = self.origin.columns, self.origin.format
        columns = Columns(
            messages=names.messages,
            prompt=names.prompt,
            completion=names.completion,
            text=names.text,
            keep=tuple(self.cfg.keep_columns),
            ignore=frozenset(self.cfg.ignore_fields),
            used=frozenset(filter(None, [self.grouping.column])),
        )
        given: Format | None = None if wanted is DatasetFormat.auto else wanted.value
        row_format, columns = recognise(row, columns, given)
        self.formats.add(row_format)
        takes_preferences = wanted is DatasetFormat.preference
        return Parser(row_format, columns, system_prompt=self.cfg.system_prompt, takes_preferences=takes_preferences)
