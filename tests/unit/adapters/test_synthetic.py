"""Data that needs no download: the same uri gives the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sft.adapters.synthetic import HELD_OUT_FACTOR, question, spell, write
from sft.errors import DataError


def rows(uri: str, folder: Path) -> list[Any]:
    write(uri, folder / "rows.jsonl")
    return [json.loads(line)["messages"] for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_a_row_asks_for_a_number_and_spells_it(tmp_path: Path) -> None:
    [(user, assistant)] = rows("synthetic://spell-numbers?rows=1", tmp_path)
    number = int(user["content"].removesuffix(".").split()[-1])
    assert user == {"role": "user", "content": question(number)}
    assert assistant == {"role": "assistant", "content": spell(number)}
    assert spell(30512) == "three zero five one two"


def test_the_same_uri_gives_the_same_rows_and_another_seed_others(tmp_path: Path) -> None:
    first = rows("synthetic://spell-numbers?rows=50&seed=1", tmp_path)
    assert first == rows("synthetic://spell-numbers?seed=1&rows=50", tmp_path)
    assert first != rows("synthetic://spell-numbers?rows=50&seed=2", tmp_path)


def test_no_row_comes_twice_and_none_is_of_those_that_are_kept_back(tmp_path: Path) -> None:
    numbers = [
        int(user["content"].removesuffix(".").split()[-1]) for user, _ in rows("synthetic://spell-numbers", tmp_path)
    ]
    assert len(set(numbers)) == len(numbers) == 3000
    assert all(number % HELD_OUT_FACTOR for number in numbers)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("synthetic://other", "no such synthetic data"),
        ("synthetic://spell-numbers?rows=0", "rows must be between 1 and 80000"),
        ("synthetic://spell-numbers?rows=80001", "rows must be between 1 and 80000"),
        ("synthetic://spell-numbers?rows=many", "takes only rows and seed, both whole numbers"),
        ("synthetic://spell-numbers?row=1", "takes only rows and seed, both whole numbers"),
    ],
)
def test_a_uri_that_names_nothing_is_refused(uri: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        write(uri, tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()
