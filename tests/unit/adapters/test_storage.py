"""Local files behind a uri; remote ones have real servers in tests/integration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sft.adapters import storage
from sft.errors import DataError


def names(uri: str) -> list[str]:
    return [Path(file.name).name for file in storage.find(uri, {})]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.jsonl", "notes.txt"):
        (tmp_path / name).write_text('{"a": 1}\n')
    return tmp_path


def test_a_folder_is_its_readable_files_in_name_order(folder: Path) -> None:
    assert names(str(folder)) == ["a.jsonl", "b.jsonl"]


def test_a_glob_is_what_it_matches(folder: Path) -> None:
    assert names(f"{folder}/b*") == ["b.jsonl"]


@pytest.mark.parametrize("lead", ["", "file://", "pvc:/"])
def test_schemes_of_this_machine_lead_to_the_path(folder: Path, lead: str) -> None:
    assert names(f"{lead}{folder}/a.jsonl") == ["a.jsonl"]


def test_a_missing_file_says_where_relative_paths_start() -> None:
    with pytest.raises(DataError, match=r"nowhere.jsonl: No such file") as caught:
        storage.find("nowhere.jsonl", {})
    assert str(Path.cwd()) in str(caught.value)


def test_a_folder_without_data_says_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.jsonl, \.json, \.csv or \.parquet"):
        storage.find(str(tmp_path), {})


def test_a_changed_file_has_another_version(folder: Path) -> None:
    [before] = storage.find(str(folder / "a.jsonl"), {})
    (folder / "a.jsonl").write_text('{"a": 2}\n')
    assert storage.find(str(folder / "a.jsonl"), {}) != [before]


def test_a_file_that_may_not_be_read_is_an_error(folder: Path) -> None:
    [file] = storage.find(str(folder / "a.jsonl"), {})
    (folder / "a.jsonl").chmod(0)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)  # nobody: no mode keeps root out
    try:
        with pytest.raises(DataError, match=r"a.jsonl: Permission denied"), storage.opened(file):
            pass
    finally:
        if was_root:
            os.seteuid(0)


def test_a_file_that_is_replaced_while_it_is_read_is_an_error(folder: Path) -> None:
    [file] = storage.find(str(folder / "a.jsonl"), {})
    with pytest.raises(DataError, match=r"a.jsonl: changed while it was read"), storage.opened(file):
        (folder / "b.jsonl").replace(folder / "a.jsonl")


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(DataError, match="nosuch"):
        storage.find("nosuch://bucket/key", {})


def test_half_of_the_aws_keys_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    with pytest.raises(DataError, match="AWS_SECRET_ACCESS_KEY is not"):
        storage.find("s3://bucket/key.jsonl", {})
