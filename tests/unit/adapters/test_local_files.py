"""Files of this machine."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest

from sft.adapters import local_files, storage
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


def test_a_missing_file_is_asked_for_by_the_nearest_name(folder: Path) -> None:
    (folder / "chats.jsonl").touch()
    with pytest.raises(DataError, match=rf"did you mean {folder}/chats\.jsonl\?"):
        storage.find(f"{folder}/chat.jsonl", {})
    with pytest.raises(DataError) as caught:
        storage.find(f"{folder}/zebra.parquet", {})
    assert "did you mean" not in str(caught.value)


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
        with pytest.raises(DataError, match=r"a.jsonl: Permission denied"), local_files.opened(file):
            pass
    finally:
        if was_root:
            os.seteuid(0)


def test_a_file_that_is_replaced_while_it_is_read_is_an_error(folder: Path) -> None:
    [file] = storage.find(str(folder / "a.jsonl"), {})
    with pytest.raises(DataError, match=r"a.jsonl: changed while it was read"), local_files.opened(file):
        (folder / "b.jsonl").replace(folder / "a.jsonl")


def test_hidden_files_and_facts_about_a_dataset_are_no_data(tmp_path: Path) -> None:
    for name in ("a.jsonl", ".b.jsonl", "._a.jsonl", "__c.json", "dataset_info.json", "state.json"):
        (tmp_path / name).touch()
    assert names(str(tmp_path)) == ["a.jsonl"]


def test_the_data_folder_of_a_folder_is_read_if_nothing_lies_above_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").touch()
    (tmp_path / "README.md").touch()
    assert names(str(tmp_path)) == ["train.jsonl"]
    (tmp_path / "a.jsonl").touch()
    assert names(str(tmp_path)) == ["a.jsonl"]


def test_rows_in_another_folder_below_are_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "a.jsonl").touch()
    with pytest.raises(DataError, match=rf"only its folders hold files of rows\n  try: dataset\.uri={tmp_path}/chat"):
        storage.find(str(tmp_path), {})


def test_a_dataset_saved_to_disk_says_how_to_write_it(tmp_path: Path) -> None:
    for name in ("data-00000-of-00001.arrow", "dataset_info.json", "state.json"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"holds \.arrow files.*\n  try: write the dataset with Dataset\.to_json"):
        storage.find(str(tmp_path), {})


def test_a_name_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")).touch()
    with pytest.raises(DataError, match=r"the file's name is not UTF-8\n  try: rename it"):
        storage.find(str(tmp_path), {})


def test_a_link_out_of_a_folder_is_followed_only_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "secret.jsonl").write_text("{}\n")
    (tmp_path / "rows" / "a.jsonl").symlink_to(tmp_path / "secret.jsonl")
    for uri in (str(tmp_path / "rows"), f"{tmp_path}/rows/*.jsonl"):
        with pytest.raises(DataError, match=r"rows/a.jsonl: is a link out of its folder, to .*secret.jsonl") as caught:
            storage.find(uri, {})
        assert "dataset.follow_links=true" in str(caught.value)
    assert len(storage.find(str(tmp_path / "rows"), {}, follow_links=True)) == 1
    assert names(str(tmp_path / "rows" / "a.jsonl")) == ["a.jsonl"]  # who names a link means it


def test_a_link_within_its_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()  # as Kubernetes mounts a ConfigMap
    (tmp_path / "..data" / "a.jsonl").write_text("{}\n")
    (tmp_path / "a.jsonl").symlink_to("..data/a.jsonl")
    (tmp_path / "moved").symlink_to(tmp_path)
    assert names(str(tmp_path / "moved")) == ["a.jsonl"]


def test_a_pipe_or_a_socket_is_no_file_and_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
        server.bind("socket.jsonl")  # a longer path than this is refused
        for name in ("pipe.jsonl", "socket.jsonl"):
            with pytest.raises(DataError, match=rf"{name}: is a pipe, a device or a socket"):
                storage.find(str(tmp_path / name), {})
        for folder in (tmp_path, tmp_path / "*.jsonl"):
            with pytest.raises(DataError, match="no file that can be read"):
                storage.find(str(folder), {})


def test_a_device_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"rows.jsonl: is a pipe, a device or a socket"):
        storage.find(str(tmp_path / "rows.jsonl"), {})
