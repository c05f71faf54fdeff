"""Settings of `dataset` that would do nothing, or that speak of one column twice, are refused."""

from __future__ import annotations

from typing import Any

import pytest

from sft.config.dataset_checks import check_dataset
from sft.config.schema import ColumnsConfig, DatasetConfig, DatasetFormat, RunConfig


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
    assert problems(format=row_format) == []


def test_a_question_is_not_its_answer() -> None:
    assert problems(columns=ColumnsConfig(prompt="completion")) == [
        "dataset.columns.completion=completion: is dataset.columns.prompt too: a row's question is not its answer"
    ]
