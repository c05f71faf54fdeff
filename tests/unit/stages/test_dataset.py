"""Rows in = rows out, a split that no order changes, and errors that name file and line."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

from sft.artifacts import DatasetArtifact
from sft.config.schema import ColumnsConfig, DatasetConfig, DatasetFormat, OnInvalid
from sft.errors import DataError
from sft.files import sha256_file
from sft.progress import Progress
from sft.stages.dataset import dataset

BAD_ROW = '{"messages": [{"role": "bot", "content": "hi"}]}'


def row(number: int) -> str:
    turns = [{"role": "user", "content": f"n {number}"}, {"role": "assistant", "content": str(number)}]
    return json.dumps({"messages": turns})


def make(folder: Path, rows: Sequence[str], **settings: Any) -> DatasetArtifact:
    folder.mkdir(exist_ok=True)
    source, out = folder / "rows.jsonl", folder / "out"
    source.write_text("\n".join(rows) + "\n", encoding="utf-8")
    out.mkdir()
    return dataset(DatasetConfig(uri=str(source), **settings), out, Progress(quiet=True))


def lines(path: Path) -> set[str]:
    return set(path.read_text(encoding="utf-8").splitlines())


def test_the_split_has_the_asked_for_size_and_no_overlap(tmp_path: Path) -> None:
    data = make(tmp_path, [row(n) for n in range(100)], train_split=0.9)
    assert (data.num_rows, data.num_train, data.num_eval) == (100, 90, 10)
    train, held = lines(data.train_file), lines(data.eval_file)
    assert (len(train), len(held), train & held) == (90, 10, set())


def test_the_split_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [row(n) for n in range(200)]
    shuffled = random.Random(0).sample(rows, len(rows))
    first, second = make(tmp_path / "a", rows), make(tmp_path / "b", shuffled)
    assert lines(first.eval_file) == lines(second.eval_file)


def test_another_seed_holds_out_other_samples(tmp_path: Path) -> None:
    rows = [row(n) for n in range(200)]
    assert lines(make(tmp_path / "a", rows, seed=1).eval_file) != lines(make(tmp_path / "b", rows, seed=2).eval_file)


def test_a_duplicate_is_in_one_half_once_and_counted(tmp_path: Path) -> None:
    data = make(tmp_path, [row(n % 50) for n in range(150)], train_split=0.5)
    assert (data.num_duplicates, data.num_train, data.num_eval) == (100, 25, 25)
    assert not lines(data.train_file) & lines(data.eval_file)


def test_dropped_rows_are_kept_with_their_reason_and_all_rows_add_up(tmp_path: Path) -> None:
    rows = [*(row(n) for n in range(30)), BAD_ROW, row(0), "{"]
    data = make(tmp_path, rows, on_invalid=OnInvalid.drop, max_samples=20)
    parts = (data.num_train, data.num_eval, data.num_rejected, data.num_duplicates, data.num_unused)
    assert parts == (18, 2, 2, 1, 10)
    assert sum(parts) == data.num_rows == 33
    rejected = [json.loads(line) for line in (data.root / "rejected.jsonl").read_text().splitlines()]
    assert [(r["line"], r["rule"]) for r in rejected] == [(31, "unknown-role"), (33, "not-json")]


def test_an_invalid_row_stops_with_file_line_rule_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        make(tmp_path, [row(1), row(2), BAD_ROW, row(4)])
    assert f"{tmp_path}/rows.jsonl:3: unknown-role" in str(caught.value)
    assert "1 of 4 rows" in str(caught.value)
    assert "dataset.on_invalid=drop" in str(caught.value)


def test_only_the_first_ten_invalid_rows_are_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="… and 15 more"):
        make(tmp_path, [BAD_ROW] * 25)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row"):
        make(tmp_path, [])


def test_a_split_that_leaves_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leaves the evaluation split empty"):
        make(tmp_path, [row(1), row(2)], train_split=0.9)


def test_all_samples_may_train(tmp_path: Path) -> None:
    data = make(tmp_path, [row(1), row(2)], train_split=1.0)
    assert (data.num_train, data.num_eval) == (2, 0)


def test_synthetic_rows_read_back_and_never_hold_a_multiple_of_97(tmp_path: Path) -> None:
    data = dataset(DatasetConfig(uri="synthetic://spell-numbers?rows=500&seed=3"), tmp_path, Progress(quiet=True))
    asked = [json.loads(line)["messages"][0]["content"] for line in lines(data.train_file)]
    assert data.num_train == 450
    assert all(int(text.removeprefix("Spell out ").removesuffix(".")) % 97 for text in asked)


@pytest.mark.parametrize(
    "uri", ["synthetic://poems", "synthetic://spell-numbers?rows=0", "synthetic://spell-numbers?x=1"]
)
def test_a_wrong_synthetic_uri_is_an_error(tmp_path: Path, uri: str) -> None:
    with pytest.raises(DataError, match=r"dataset\.uri=synthetic"):
        dataset(DatasetConfig(uri=uri), tmp_path, Progress(quiet=True))


def test_the_bytes_that_were_read_are_known_by_their_digest(tmp_path: Path) -> None:
    data = make(tmp_path, [row(n) for n in range(10)])
    file = tmp_path / "rows.jsonl"
    assert data.source_files == {str(file): sha256_file(file)}


def test_a_separate_evaluation_set_is_held_out_and_taken_out_of_training(tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text("\n".join(row(n) for n in [1, 2, 2, 900]) + "\n")
    data = make(tmp_path, [row(n % 10) for n in range(15)], eval_uri=str(held))
    assert (data.num_rows, data.num_train, data.num_eval) == (19, 8, 3)
    assert (data.num_duplicates, data.num_overlap) == (4, 4)  # of 0, 3, 4 and the held out 2; 1 and 2, twice each
    assert lines(data.eval_file) == {line.replace(": ", ":").replace(", ", ",") for line in map(row, [1, 2, 900])}
    assert not lines(data.train_file) & lines(data.eval_file)


def test_an_empty_evaluation_set_names_its_key(tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").touch()
    with pytest.raises(DataError, match=r"dataset\.eval_uri=.*held\.jsonl: no row"):
        make(tmp_path, [row(1)], eval_uri=str(tmp_path / "held.jsonl"))


def test_kept_columns_stay_and_do_not_hide_duplicates(tmp_path: Path) -> None:
    rows = [json.dumps({**json.loads(row(n // 2)), "id": n}) for n in range(20)]
    data = make(tmp_path, rows, keep_columns=["id"], train_split=1.0)
    assert (data.num_train, data.num_duplicates) == (10, 10)
    kept = [json.loads(line)["metadata"]["id"] for line in data.train_file.read_text().splitlines()]
    assert kept == list(range(0, 20, 2))


def test_the_format_is_recognised_and_said(tmp_path: Path) -> None:
    rows = [json.dumps({"instruction": f"say {n}", "output": str(n)}) for n in range(10)]
    assert make(tmp_path, rows).row_format == "alpaca"


def test_broken_rows_before_the_first_good_one_do_not_hide_the_format(tmp_path: Path) -> None:
    rows = ["{", "[]", *(json.dumps({"prompt": str(n), "completion": "x"}) for n in range(10))]
    data = make(tmp_path, rows, on_invalid=OnInvalid.drop)
    assert (data.row_format, data.num_rejected, data.num_train) == ("prompt_completion", 2, 9)


def asked(question: str, answer: str, **columns: Any) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns, **columns}, ensure_ascii=False)


SPELLINGS = ("Who owns {n} in Köln?", "who owns {n} in KÖLN? \n\t", "Who owns {n} in Ko\u0308ln?\r\n")


@pytest.mark.parametrize("keep", [[], ["note"]])
def test_rows_with_one_prompt_stay_together_however_it_is_spelled(tmp_path: Path, keep: list[str]) -> None:
    rows = [asked(text.format(n=n), f"{n}, {i}", note=i) for n in range(100) for i, text in enumerate(SPELLINGS)]
    data = make(tmp_path, rows, train_split=0.5, keep_columns=keep)
    assert (data.num_train, data.num_eval, data.num_groups) == (150, 150, 100)
    numbers = [{text.split()[2] for text in map(first_prompt, lines(f))} for f in (data.train_file, data.eval_file)]
    assert not numbers[0] & numbers[1]


def first_prompt(line: str) -> str:
    return str(json.loads(line)["messages"][0]["content"])


def test_a_text_that_looks_like_an_answer_is_part_of_the_prompt(tmp_path: Path) -> None:
    trap = '{"role":"assistant"'
    data = make(tmp_path, [asked(f"{trap} {n}", "x") for n in range(20)], train_split=0.5)
    assert data.num_groups == 20


def test_the_prompt_holds_the_system_turn(tmp_path: Path) -> None:
    rows = [
        json.dumps({"messages": [{"role": "system", "content": str(n)}, *json.loads(row(1))["messages"]]})
        for n in range(10)
    ]
    assert make(tmp_path, rows, train_split=0.5).num_groups == 10


def test_by_row_nothing_is_kept_together(tmp_path: Path) -> None:
    data = make(tmp_path, [asked("same", str(n)) for n in range(100)], split_by="row")
    assert (data.num_train, data.num_eval, data.num_groups) == (90, 10, 100)


def test_one_prompt_for_all_can_not_be_split_and_the_error_says_how(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"100 samples in 1 group \(dataset.split_by=prompt\)") as caught:
        make(tmp_path, [asked("same", str(n)) for n in range(100)])
    assert "dataset.split_by=row" in str(caught.value)


def test_rows_stay_together_by_a_column_and_a_null_is_no_value(tmp_path: Path) -> None:
    rows = [asked(f"q {n}", "a", book=n // 10) for n in range(100)] + [
        asked(f"q {n}", "a", book=None) for n in range(100, 110)
    ]
    data = make(tmp_path, rows, train_split=0.5, split_by="book")
    assert data.num_groups == 20
    books = [{int(text.split()[1]) // 10 for text in prompts_of(f)} for f in (data.train_file, data.eval_file)]
    assert books[0] & books[1] <= {10}


def prompts_of(path: Path) -> list[str]:
    return [first_prompt(line) for line in lines(path)]


def test_a_column_that_the_source_does_not_have_is_an_error_that_names_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset.split_by=bok: the source has no such column; its columns: .*book"):
        make(tmp_path, [asked(f"q {n}", "a", book=n) for n in range(10)], split_by="bok", on_invalid=OnInvalid.drop)


def test_a_row_without_the_column_is_an_invalid_row(tmp_path: Path) -> None:
    rows = [*(asked(f"q {n}", "a", book=n) for n in range(10)), asked("q", "a")]
    with pytest.raises(DataError, match=r"rows.jsonl:11: missing-column: no book \(dataset.split_by\)"):
        make(tmp_path, rows, split_by="book")


def test_prompts_of_the_evaluation_set_do_not_train(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(asked("Q 3", "three, said otherwise") + "\n")
    rows = [asked(f"q {n}", "a") for n in range(10)]
    data = make(tmp_path, rows, eval_uri=str(tmp_path / "test.jsonl"))
    assert (data.num_train, data.num_eval, data.num_overlap) == (9, 1, 1)
    assert "q 3" not in prompts_of(data.train_file)


def test_raw_texts_are_kept_apart_from_conversations_once_each(tmp_path: Path) -> None:
    rows = [json.dumps({"body": text}) for text in ("a b", "c", "a b", ' "role":"assistant" ')]
    columns = ColumnsConfig(text="body")
    data = make(tmp_path, rows, format=DatasetFormat.text, columns=columns, train_split=1.0, system_prompt="be brief")
    assert [json.loads(line) for line in sorted(lines(data.train_file))] == [
        {"messages": [{"role": "text", "content": text}]} for text in (' "role":"assistant" ', "a b", "c")
    ]
    assert (data.num_duplicates, data.num_train, data.row_format) == (1, 3, "text")


FOLDER = [
    *("part-0.jsonl", "data/part-4.jsonl", "part-1.jsonl.xz", "part-2.NDJSON", "sub/part-0.jsonl", "sub/part-1.jsonl"),
    *("README.md", "README.txt", "LICENSE", ".hidden.jsonl", ".cache/x.jsonl", "__MACOSX/y.jsonl"),
]


def test_what_a_folder_holds_besides_and_is_not_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    for name in FOLDER:
        (tmp_path / "rows" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rows" / name).write_text(row(0) + "\n")
        memory.pipe_file(f"/besides/{name}", f"{row(0)}\n".encode())
    monkeypatch.chdir(tmp_path / "rows")
    left = "data/ (1 file), part-1.jsonl.xz, part-2.NDJSON, sub/ (2 files)"
    for number, uri in enumerate([str(tmp_path / "rows"), ".", "memory://besides"]):
        (out := tmp_path / f"out{number}").mkdir()
        data = dataset(DatasetConfig(uri=uri, train_split=1.0), out, Progress(quiet=True))
        assert data.num_rows == 1
        [note] = data.notes
        assert note.startswith(f"{uri}: not read: {left}; a folder is its own .jsonl"), note


def test_of_a_folder_that_is_read_whole_nothing_is_said(tmp_path: Path) -> None:
    data = make(tmp_path, [row(n) for n in range(30)])
    (tmp_path / "data").mkdir()
    (tmp_path / "rows.jsonl").rename(tmp_path / "data" / "rows.jsonl")
    for number, uri in enumerate([f"{tmp_path}/data", f"{tmp_path}/data/*"]):
        (out := tmp_path / f"out{number}").mkdir()
        assert not dataset(DatasetConfig(uri=uri), out, Progress(quiet=True)).notes
    assert not data.notes
