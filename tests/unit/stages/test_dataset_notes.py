"""What the dataset stage says of fields and files that it doesn't read, and which rows it leaves out by choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from sft.artifacts import DatasetArtifact
from sft.config.schema import DatasetConfig, DatasetFormat, OnInvalid
from sft.errors import DataError
from sft.progress import Progress
from sft.stages.dataset import dataset


def row(number: int, **columns: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"n {number}"}, {"role": "assistant", "content": str(number)}]
    return {"messages": turns, **columns}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def make(uri: Path, out: Path, **settings: Any) -> DatasetArtifact:
    out.mkdir()
    progress = Progress(quiet=True)
    data = dataset(DatasetConfig(uri=str(uri), **{"train_split": 1.0, **settings}), out, progress)
    assert progress.notes == data.notes
    return data


def trained(data: DatasetArtifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.train_file.read_text(encoding="utf-8").splitlines()]


def test_fields_that_are_not_read_are_counted_over_all_rows(tmp_path: Path) -> None:
    """Over several batches, of which the first is read row by row and the others at once."""
    columns: list[dict[str, Any]] = [{}, {"id": 1}, {"id": None}, {"id": 2, "late": "x"}]
    rows = [row(n, **columns[n % 3 if n < 9000 else 3], filler="x" * 60) for n in range(10_000)]
    file = write(tmp_path / "rows.jsonl", rows)
    data = make(file, tmp_path / "out")
    assert data.unread_fields == {"filler": 10_000, "id": 4000, "late": 1000}
    assert data.notes == [
        f"not read: `filler` in 10,000 of 10,000 rows, first in {file}:1",
        f"not read: `id` in 4,000 of 10,000 rows, first in {file}:2",
        f"not read: `late` in 1,000 of 10,000 rows, first in {file}:9001",
    ]
    assert data.num_train == 10_000
    assert all(sample.keys() == {"messages"} for sample in trained(data))


def test_a_column_that_changes_the_meaning_is_found_in_the_last_row_of_many(tmp_path: Path) -> None:
    rows = [row(n, id=n, images=None, filler="x" * 60) for n in range(9000)]
    file = write(tmp_path / "rows.jsonl", [*rows, row(9000, images=["a.png"]), row(9001)])
    with pytest.raises(DataError, match=rf"1 of 9002 rows .*\n  {file}:9001: unread-field: `images` is not read"):
        make(file, tmp_path / "out")
    data = make(file, tmp_path / "ignored", ignore_fields=["images", "filler"])
    assert (data.num_train, data.unread_fields) == (9002, {"id": 9000})


def test_a_setting_that_names_a_field_of_no_row_is_said(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(n, id=n) for n in range(10)])
    data = make(file, tmp_path / "out", ignore_fields=["pictures", "id"], keep_columns=["origin"])
    assert data.notes == [
        "dataset.keep_columns=[origin] does nothing: no row has `origin`",
        "dataset.ignore_fields=[pictures] does nothing: no row has `pictures`",
    ]


def test_an_ignored_field_of_turns_leaves_the_turn(tmp_path: Path) -> None:
    rows = [row(n) for n in range(3)]
    rows[2]["messages"][1]["reasoning"] = "two"
    file = write(tmp_path / "rows.jsonl", rows)
    assert trained(make(file, tmp_path / "a"))[2]["messages"][1]["reasoning_content"] == "two"
    data = make(file, tmp_path / "b", ignore_fields=["reasoning"])
    assert trained(data) == [row(n) for n in range(3)]
    assert data.notes == []


def test_test_files_of_a_folder_are_left_out_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for number, name in enumerate(("train", "test", "validation")):
        write(folder / f"{name}.jsonl", [row(number)])
    data = make(folder, tmp_path / "a")
    assert trained(data) == [row(0)]
    assert data.notes == [f"{folder}: not read: test.jsonl, validation.jsonl; dataset.split chooses"]
    assert trained(make(folder, tmp_path / "b", split="test")) == [row(1)]
    assert make(folder, tmp_path / "c", split="all").num_train == 3
    held = make(folder, tmp_path / "d", eval_uri=str(folder), eval_split="validation")
    assert json.loads(held.eval_file.read_text(encoding="utf-8")) == row(2)
    with pytest.raises(DataError, match=r"several splits.*\n  try: dataset\.eval_split=test"):
        make(folder, tmp_path / "e", eval_uri=str(folder))


def test_a_file_that_is_named_is_read_whatever_its_name_says(tmp_path: Path) -> None:
    file = write(tmp_path / "test.jsonl", [row(0)])
    assert make(file, tmp_path / "a").notes == []
    assert make(file, tmp_path / "b", split="train").notes == [f"dataset.split=train does nothing: {file} is one file"]


def test_answers_that_were_not_chosen_are_left_out_and_are_no_error(tmp_path: Path) -> None:
    rows = [{"prompt": str(n), "completion": "x", "label": n < 7} for n in range(10)]
    file = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"3 of 10 rows are invalid \(3 preference\)"):
        make(file, tmp_path / "a")
    data = make(file, tmp_path / "b", format=DatasetFormat.preference)
    assert (data.num_train, data.num_rejected) == (7, 3)
    write(file, [*rows, {"prompt": "x"}])
    with pytest.raises(DataError, match="4 of 11 rows are invalid"):
        make(file, tmp_path / "c", format=DatasetFormat.preference)


def test_calls_in_parquet_are_what_they_are_in_json_lines(tmp_path: Path) -> None:
    """Each call has only the arguments that it was written with, and the same digest decides its split."""
    rows = []
    for number, (name, arguments) in enumerate({"add": {"a": 1, "b": 2}, "find": {"city": "Bonn"}, "now": {}}.items()):
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        tool = {
            "type": "function",
            "function": {"name": name, "parameters": {"properties": {key: {"type": "x"} for key in arguments}}},
        }
        turns = [{"role": "user", "content": f"{number}"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        rows.append(
            {"messages": [*turns, {"role": "tool", "content": "4"}, turns[0] | {"role": "assistant"}], "tools": [tool]}
        )
    write(tmp_path / "rows.jsonl", rows)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    texts = [{**each, "messages": json.dumps(each["messages"]), "tools": json.dumps(each["tools"])} for each in rows]
    pyarrow.parquet.write_table(pa.Table.from_pylist(texts), tmp_path / "texts.parquet")
    as_written, *others = (
        trained(make(file, tmp_path / file.stem.replace("rows", file.suffix))) for file in sorted(tmp_path.glob("*.*"))
    )
    assert as_written == rows
    assert others == [rows, rows]


@pytest.mark.parametrize("name", ["naïve.jsonl", "rows.csv"])
def test_a_row_without_content_is_found_with_its_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if name.endswith("csv"):
        file.write_text('prompt,completion\n"a\nb",x\nc,\n', encoding="utf-8")
        where = f"{file}:4: empty-answer"
    else:
        write(file, [row(0), {"messages": [{"role": "user"}, {"role": "assistant", "content": "x"}]}])
        where = f"{file}:2: no-content: turn 1, of the user, has no content"
    with pytest.raises(DataError, match=where):
        make(file, tmp_path / "out")


def test_a_deep_column_that_is_kept_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    deep = json.dumps(row(1))[:-1] + ', "deep": ' + "[" * 100_000 + "]" * 100_000 + "}"
    file.write_text(json.dumps(row(0)) + "\n" + deep + "\n", encoding="utf-8")
    data = make(file, tmp_path / "out", keep_columns=["deep"], on_invalid=OnInvalid.drop)
    assert (data.num_train, data.num_rejected) == (1, 1)


def test_a_column_that_the_split_reads_is_no_unread_one(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(n, context=f"c{n % 5}", id=n) for n in range(10)])
    data = make(file, tmp_path / "out", split_by="context")
    assert (data.num_groups, data.unread_fields) == (5, {"id": 10})
