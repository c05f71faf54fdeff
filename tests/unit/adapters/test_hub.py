"""References to the hub, and which config and split are read. Fetching is tests/integration/test_hub.py's."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timedelta
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from sft.adapters import hub
from sft.adapters.hub import Reference
from sft.adapters.hub import rows as rows_of_hub
from sft.adapters.split_names import Wanted, choose_split
from sft.errors import DataError


@pytest.mark.parametrize(
    ("uri", "reference"),
    [
        ("hf://org/name", Reference("org/name")),
        ("org/name", Reference("org/name")),
        ("hf://org/name:main", Reference("org/name", "main")),
        ("hf://org/name@v1.0", Reference("org/name", None, "v1.0")),
        ("hf://org/name:main@refs/pr/3", Reference("org/name", "main", "refs/pr/3")),
        ("hf://datasets/org/name", Reference("org/name")),
        ("hf://org/name/file.json", None),
    ],
)
def test_a_reference_names_repository_config_and_revision(uri: str, reference: Reference | None) -> None:
    assert hub.parse(uri) == reference


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (["test", "train"], "train"),
        (["test_sft", "train_gen", "train_sft"], "train_sft"),
        (["train_gen", "test"], "train_gen"),
        (["dev", "training"], "training"),
        (["everything"], "everything"),
    ],
)
def test_the_training_split_is_read_or_the_only_one(present: list[str], chosen: str) -> None:
    assert choose_split("dataset org/name", present, Wanted()) == chosen


def test_a_wished_split_goes_before_the_usual_one() -> None:
    assert choose_split("dataset org/name", ["train", "test"], Wanted("test")) == "test"


def test_if_it_is_not_clear_which_config_all_are_listed_with_what_to_write() -> None:
    with pytest.raises(DataError, match=r"several configs: a, b\n  try: dataset\.uri=hf://org/name:a"):
        rows_of_hub.choose_config("org/name", None, ["a", "b"])
    with pytest.raises(DataError, match="has no config c but a, b"):
        rows_of_hub.choose_config("org/name", "c", ["a", "b"])


def test_json_files_are_read_as_they_are_written_whatever_their_names_say(tmp_path: Path) -> None:
    lines = b'{"text": "2020-01-01"}\n{"text": "01"}\n'
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.json").write_bytes(lines)
    (tmp_path / "c.json").write_bytes(b'[{"text": "2020-01-01"}, {"text": "01"}]')
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines))
    for name in ("a.jsonl", "b.json", "c.json", "d.jsonl.gz"):
        assert b"".join(rows_of_hub.as_written([str(tmp_path / name)])) == lines


def test_rows_that_come_to_more_than_is_allowed_are_refused() -> None:
    rows = [b"x" * 50] * 3
    assert list(rows_of_hub._bounded("org/name", rows, 150)) == rows
    with pytest.raises(DataError, match=r"its rows come to more than dataset\.max_download_bytes=149"):
        list(rows_of_hub._bounded("org/name", rows, 149))


def test_times_of_any_precision_are_written_as_iso_text(tmp_path: Path) -> None:
    when = datetime(2020, 1, 2, 3, 4, 5)
    columns = {unit: pa.array([when, None], pa.timestamp(unit)) for unit in ("s", "ns")}
    rows = datasets.Dataset(pa.table(columns)).to_iterable_dataset()
    written = [json.loads(line) for line in rows_of_hub.encoded("org/name", rows)]
    assert written == [dict.fromkeys(columns, "2020-01-02T03:04:05"), dict.fromkeys(columns)]


@pytest.mark.parametrize("value", [b"bytes", [{"deep": b"bytes"}], timedelta(1)])
def test_a_column_that_json_can_not_hold_is_named(value: object) -> None:
    rows = datasets.Dataset(pa.table({"good": ["text"], "bad": [value]})).to_iterable_dataset()
    with pytest.raises(DataError, match=r"org/name: column bad holds .*, which JSON can't"):
        list(rows_of_hub.encoded("org/name", rows))
