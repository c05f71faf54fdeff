"""Several sources in one dataset: where each row went, which source a shared row is of, whom an error names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from sft.artifacts import DatasetArtifact
from sft.config.schema import ColumnsConfig, DatasetConfig, DatasetFormat, OnInvalid, SourceConfig
from sft.errors import DataError
from sft.progress import Progress
from sft.stages.dataset import dataset, source_lines
from sft.stages.sources import download, origins_of, source_version

PAIRS = {"format": DatasetFormat.prompt_completion, "columns": ColumnsConfig(prompt="q", completion="a")}


def chat(numbers: Iterable[int]) -> str:
    rows = ([{"role": "user", "content": f"n {n}"}, {"role": "assistant", "content": str(n)}] for n in numbers)
    return "".join(json.dumps({"messages": turns}) + "\n" for turns in rows)


def pairs(numbers: Iterable[int]) -> str:
    return "q,a\n" + "".join(f"n {n},{n}\n" for n in numbers)


def make(folder: Path, first: str, second: str, of_second: dict[str, Any] | None = None, **settings: Any) -> Any:
    (folder / "first.jsonl").write_text(first)
    (folder / "second.csv").write_text(second)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    sources = {
        "chat": SourceConfig(uri=str(folder / "first.jsonl")),
        "maths": SourceConfig(uri=str(folder / "second.csv"), **PAIRS, **(of_second or {})),
    }
    return dataset(DatasetConfig(uri="", sources=sources, **settings), out, Progress(quiet=True))


def samples(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def prompts(file: Path) -> set[str]:
    return {sample["messages"][0]["content"] for sample in samples(file)}


def accounted(data: DatasetArtifact) -> None:
    """Assert that each source's parts add up to its rows, and the sources' parts to the dataset's."""
    for counts in data.sources.values():
        assert counts["rows"] == sum(count for what, count in counts.items() if what != "rows")
    of_all = {"rows": data.num_rows, "train": data.num_train, "held_out": data.num_eval}
    of_all |= {"rejected": data.num_rejected, "duplicates": data.num_duplicates, "unused": data.num_unused}
    assert {what: sum(counts[what] for counts in data.sources.values()) for what in of_all} == of_all


def test_rows_of_two_formats_are_counted_by_source_and_name_it(tmp_path: Path) -> None:
    data = make(tmp_path, chat(range(100)), pairs(range(90, 150)), {"max_samples": 20})
    accounted(data)
    assert data.sources["chat"]["duplicates"] == 0
    maths = data.sources["maths"]
    assert (maths["rows"], maths["duplicates"], maths["unused"]) == (60, 10, 30)
    assert maths["train"] + maths["held_out"] == 20
    for file, half in ((data.train_file, "train"), (data.eval_file, "held_out")):
        counts = Counter(sample["source"] for sample in samples(file))
        assert counts == {name: of[half] for name, of in data.sources.items() if of[half]}
    assert data.row_format == "messages, prompt_completion"
    assert next(source_lines(data.sources)).startswith("chat: 100 rows = ")


def test_a_row_of_two_sources_is_the_first_ones_and_in_one_half(tmp_path: Path) -> None:
    data = make(tmp_path, chat(range(200)), pairs(range(200)), train_split=0.5)
    assert data.sources["maths"]["duplicates"] == data.num_duplicates == 200
    assert not prompts(data.train_file) & prompts(data.eval_file)
    assert {sample["source"] for sample in samples(data.train_file)} == {"chat"}


def test_the_same_prompt_with_another_answer_in_another_source_stays_in_its_half(tmp_path: Path) -> None:
    other = "q,a\n" + "".join(f"N {n} ,another {n}\n" for n in range(200))
    data = make(tmp_path, chat(range(200)), other, train_split=0.5)
    assert (data.num_duplicates, data.num_groups) == (0, 200)
    train, held = ({text.strip().lower() for text in prompts(file)} for file in (data.train_file, data.eval_file))
    assert (len(train), len(held), train & held) == (100, 100, set())


def test_rows_that_break_rules_name_source_file_line_and_are_counted(tmp_path: Path) -> None:
    bad = pairs(range(5)) + "n 9,\n"
    with pytest.raises(DataError) as caught:
        make(tmp_path, chat(range(5, 9)), bad)
    assert f"maths: {tmp_path}/second.csv:7: empty-answer" in str(caught.value)
    data = make(tmp_path, chat(range(5, 20)), bad, on_invalid=OnInvalid.drop)
    accounted(data)
    assert data.sources["maths"]["rejected"] == 1
    assert [row["source"] for row in samples(data.root / "rejected.jsonl")] == ["maths"]


def test_a_source_that_is_not_there_or_empty_or_without_the_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.sources\.maths\.uri=.*second\.csv: no row"):
        make(tmp_path, chat([1]), "q,a\n")
    with pytest.raises(DataError, match=r"dataset\.sources\.chat: dataset\.split_by=topic: the source has no such"):
        make(tmp_path, chat([1]), pairs([2]), split_by="topic")
    cfg = DatasetConfig(uri="", sources={"far": SourceConfig(uri=str(tmp_path / "nowhere.jsonl"))})
    with pytest.raises(DataError, match=r"dataset\.sources\.far\.uri=.*nowhere\.jsonl"):
        source_version(cfg)


def test_a_separate_evaluation_set_is_held_out_of_every_source(tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").write_text(chat([1, 150]))
    data = make(tmp_path, chat(range(100)), pairs(range(100, 160)), eval_uri=str(tmp_path / "held.jsonl"))
    assert (data.num_train, data.num_eval, data.num_overlap) == (158, 2, 2)
    assert [data.sources[name]["held_out_already"] for name in ("chat", "maths")] == [1, 1]
    assert all("source" not in sample for sample in samples(data.eval_file))


def test_text_of_the_held_out_split_is_taken_out_of_each_source_and_counted(tmp_path: Path) -> None:
    told = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    rows = "q,a\n" + f"what is said here,{told}\n" + "".join(f"n {n},{n}\n" for n in range(9))
    held = [{"role": "user", "content": "say it"}, {"role": "assistant", "content": told}]
    (tmp_path / "held.jsonl").write_text(json.dumps({"messages": held}) + "\n")
    data = make(tmp_path, chat(range(20, 30)), rows, eval_uri=str(tmp_path / "held.jsonl"), decontaminate=True)
    assert (data.num_contaminated, data.sources["maths"]["contaminated"], data.sources["maths"]["train"]) == (1, 1, 9)
    assert data.sources["chat"]["contaminated"] == 0


def test_a_revision_pins_a_source_of_the_hub() -> None:
    sources = {"maths": SourceConfig(uri="hf://openai/gsm8k:main", revision="abc"), "chat": SourceConfig(uri="a.jsonl")}
    cfg = DatasetConfig(uri="", sources=sources)
    assert [origin.source.uri for origin in origins_of(cfg)] == ["hf://openai/gsm8k:main@abc", "a.jsonl"]
    assert download(cfg) == "dataset hf://openai/gsm8k:main@abc"
