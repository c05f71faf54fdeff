"""Which files and splits are read, and that test data is never trained by accident."""

from __future__ import annotations

import pytest

from sft.adapters.split_names import Wanted, choose_split, select_files, split_of
from sft.errors import DataError

BOTH = ["d/test.jsonl", "d/train.jsonl", "d/validation.jsonl"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("train-00000-of-00003.parquet", "train"),
        ("train_sft", "train"),
        ("chat_test.jsonl", "test"),
        ("Test.csv", "test"),
        ("eval.jsonl", "test"),
        ("dev.json", "validation"),
        ("validation-00000-of-00001.parquet", "validation"),
        ("holdout.jsonl", "test"),
        ("held_out.jsonl", "test"),
        ("chat-hold-out-2.jsonl", "test"),
        ("benchmark.csv", "test"),
        ("upheld.jsonl", None),
        ("hold_outer.jsonl", None),
        ("latest.jsonl", None),
        ("constraint.jsonl", None),
        ("devices.jsonl", None),
    ],
)
def test_a_split_is_a_word_of_a_name(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_train_is_read_and_the_rest_left_out() -> None:
    selection = select_files("d", BOTH, Wanted())
    assert (selection.chosen, selection.left_out) == (["d/train.jsonl"], ["d/test.jsonl", "d/validation.jsonl"])


def test_names_of_one_kind_are_all_read() -> None:
    for names in (["d/a.jsonl", "d/b.jsonl"], ["d/train-0.jsonl", "d/train-1.jsonl"]):
        assert select_files("d", names, Wanted()).chosen == names


def test_folders_tell_files_apart_but_those_above_them_do_not() -> None:
    assert select_files("t", ["t/test/a.jsonl", "t/train/a.jsonl"], Wanted()).chosen == ["t/train/a.jsonl"]
    assert select_files("test", ["test/a.jsonl", "test/b.jsonl"], Wanted()).left_out == []


@pytest.mark.parametrize(("split", "name"), [("test", "test"), ("validation", "validation"), ("valid", "validation")])
def test_the_split_that_is_asked_for_is_read(split: str, name: str) -> None:
    assert select_files("d", BOTH, Wanted(split)).chosen == [f"d/{name}.jsonl"]


def test_any_file_is_a_split_by_its_name_and_all_is_every_file() -> None:
    names = ["d/a.jsonl", "d/b.jsonl"]
    assert select_files("d", names, Wanted("b")).chosen == ["d/b.jsonl"]
    assert select_files("d", BOTH, Wanted("all")).chosen == BOTH


def test_an_absent_split_names_the_files_that_are_there() -> None:
    with pytest.raises(DataError, match=r"no file is of the split test; there are train\.jsonl"):
        select_files("d", ["d/train.jsonl"], Wanted("test"))


def test_a_file_that_names_no_split_beside_test_data_is_asked_about() -> None:
    with pytest.raises(
        DataError, match=r"is more\.jsonl train data too\?.*\n  try: dataset\.split=train leaves it out"
    ):
        select_files("d", ["d/more.jsonl", "d/test.jsonl", "d/train.jsonl"], Wanted())
    with pytest.raises(
        DataError, match=r"is unseen\.jsonl train data too\?.*\n  try: .*dataset\.split=all reads every"
    ):
        select_files("d", ["d/unseen.jsonl", "d/train.jsonl"], Wanted())


def test_what_is_held_out_is_not_trained() -> None:
    selection = select_files("d", ["d/holdout.jsonl", "d/train.jsonl"], Wanted())
    assert (selection.chosen, selection.left_out) == (["d/train.jsonl"], ["d/holdout.jsonl"])


def test_test_data_alone_is_trained_only_if_it_is_asked_for() -> None:
    for name in ("test", "validation"):
        with pytest.raises(DataError, match=rf"has only {name} data.*\n  try: dataset\.split={name}"):
            select_files("d", [f"d/{name}.jsonl"], Wanted())
        with pytest.raises(DataError, match=rf"has only {name} data.*\n  try: dataset\.split={name}"):
            choose_split("dataset org/name", [name], Wanted())
        assert choose_split("dataset org/name", [name], Wanted(name)) == name
    with pytest.raises(DataError, match=r"several splits: test, validation\n  try: dataset\.split=test"):
        choose_split("dataset org/name", ["test", "validation"], Wanted())


def test_a_separate_evaluation_set_is_never_the_training_split() -> None:
    held_out = Wanted(held_out=True)
    assert choose_split("dataset org/name", ["train", "test"], held_out) == "test"
    assert select_files("d", ["d/test.jsonl", "d/train.jsonl"], held_out).chosen == ["d/test.jsonl"]
    with pytest.raises(DataError, match=r"several splits.*\n  try: dataset\.eval_split=test"):
        choose_split("dataset org/name", ["train", "test", "validation"], held_out)
    assert choose_split("dataset org/name", ["train"], held_out) == "train"


def test_unclear_splits_are_listed_with_what_to_write() -> None:
    with pytest.raises(DataError, match=r"several splits: a, b\n  try: dataset\.split=a"):
        choose_split("dataset org/name", ["a", "b"], Wanted())
    with pytest.raises(DataError, match="has no split c but a, b"):
        choose_split("dataset org/name", ["a", "b"], Wanted("c"))
