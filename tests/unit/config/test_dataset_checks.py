"""Settings of `dataset` that would do nothing, or that speak of one column twice, are refused."""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.dataset_checks import check_dataset
from sft.config.schema import (
    ColumnsConfig,
    DatasetConfig,
    DatasetFormat,
    EvalConfig,
    HeldOutSetConfig,
    RunConfig,
    SourceConfig,
)


def problems(uri: str = "rows.jsonl", **changes: Any) -> list[str]:
    return [str(problem) for problem in check_dataset(RunConfig(dataset=DatasetConfig(uri=uri, **changes)))]


def test_the_split_of_an_evaluation_set_needs_that_set() -> None:
    assert problems("hf://org/name", eval_split="test") == [
        "dataset.eval_split=test: needs dataset.eval_uri, of which it is a split; try dataset.eval_uri=hf://org/name"
    ]
    assert problems("hf://org/name", eval_split="test", eval_uri="hf://org/name") == []


@pytest.mark.parametrize(
    ("row_format", "names", "unread"),
    [
        (DatasetFormat.messages, {"prompt": "q"}, ["prompt=q"]),
        (DatasetFormat.conversations, {"messages": "m", "completion": "a"}, ["completion=a"]),
        (DatasetFormat.alpaca, {"messages": "m", "prompt": "q"}, ["messages=m", "prompt=q"]),
        (DatasetFormat.prompt_completion, {"messages": "m", "prompt": "q"}, ["messages=m"]),
        (DatasetFormat.preference, {"messages": "m", "prompt": "q"}, []),
        (DatasetFormat.auto, {"messages": "m", "prompt": "q", "completion": "a"}, []),
    ],
)
def test_a_column_that_the_format_does_not_read_is_refused(
    row_format: DatasetFormat, names: dict[str, str], unread: list[str]
) -> None:
    assert problems(format=row_format, columns=ColumnsConfig(**names)) == [
        f"dataset.columns.{name}: is not read with dataset.format={row_format.value}; leave it out" for name in unread
    ]


@pytest.mark.parametrize("row_format", DatasetFormat)
def test_defaults_pass_with_every_format(row_format: DatasetFormat) -> None:
    assert problems(format=row_format, train_split=1.0 if row_format is DatasetFormat.text else 0.9) == []


def test_a_question_is_not_its_answer() -> None:
    assert problems(columns=ColumnsConfig(prompt="completion")) == [
        "dataset.columns.completion=completion: is dataset.columns.prompt too: a row's question is not its answer"
    ]


TEXT = DatasetFormat.text
NOT_SCORED = "is for training: a held-out text is not scored"


def test_raw_text_is_refused_where_it_would_be_held_out() -> None:
    assert problems(format=TEXT) == [
        f"dataset.format=text: {NOT_SCORED}; try dataset.train_split=1.0, and training.validation_split for a loss on "
        "texts that don't train"
    ]
    [of_set] = problems(format=TEXT, eval_uri="b.jsonl")
    assert of_set.startswith(f"dataset.format=text: {NOT_SCORED}; give conversations")
    [of_source] = problems("", sources={"a": SourceConfig(uri="a.jsonl", format=TEXT)})
    assert of_source.startswith(f"dataset.sources.a.format=text: {NOT_SCORED}")
    held_out = EvalConfig(holdouts={"mine": HeldOutSetConfig(uri="b.jsonl", format=TEXT)})
    assert [str(problem) for problem in check_dataset(RunConfig(dataset=DatasetConfig(uri="a"), eval=held_out))] == [
        f"eval.holdouts.mine.format=text: {NOT_SCORED}; leave the set out"
    ]


def test_raw_text_that_trains_is_taken_alone_or_beside_conversations() -> None:
    assert problems(format=TEXT, columns=ColumnsConfig(text="body"), train_split=1.0) == []
    sources = {"a": SourceConfig(uri="a.jsonl", format=TEXT), "b": SourceConfig(uri="b.jsonl")}
    assert problems("", sources=sources, train_split=1.0) == []
    assert problems("", sources=sources, eval_uri="c.jsonl") == []


def test_only_raw_text_reads_the_name_of_its_column() -> None:
    [said] = problems(columns=ColumnsConfig(text="body"))
    assert said == "dataset.columns.text=body: is not read with dataset.format=auto; leave it out"
