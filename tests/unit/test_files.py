"""Files: hashed as ``sha256sum`` does, replaced whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from sft.files import (
    NotADocumentError,
    inode,
    json_text,
    list_files,
    path_from_here,
    read_document,
    sha256_file,
    sync,
    write_atomically,
    write_json,
)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 7])
def test_the_digest_is_that_of_all_bytes(size: int, tmp_path: Path) -> None:
    content = os.urandom(size)
    (tmp_path / "x").write_bytes(content)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_two_names_of_one_file_have_one_inode(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    (tmp_path / "y").hardlink_to(tmp_path / "x")
    (tmp_path / "z").touch()
    assert inode(tmp_path / "x") == inode(tmp_path / "y") != inode(tmp_path / "z")


def test_files_are_listed_by_their_path_from_the_root(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("c", "b/x", "a"):
        (tmp_path / name).touch()
    assert list_files(tmp_path) == ["a", "b/x", "c"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "x", b"old")

    def fill_disk(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:1])
        raise OSError("no space")

    monkeypatch.setattr(Path, "write_bytes", fill_disk)
    with pytest.raises(OSError, match="no space"):
        write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_json_for_others_is_ascii_and_has_no_value_that_json_lacks() -> None:
    text = json_text({"ä": ["中", float("nan"), float("-inf"), 0.5]})
    assert text.isascii()
    assert json.loads(text, parse_constant=pytest.fail) == {"ä": ["中", None, None, 0.5]}


def test_json_is_written_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"path": tmp_path, "ä": 1})
    assert json.loads((tmp_path / "x.json").read_bytes()) == {"path": str(tmp_path), "ä": 1}
    assert list_files(tmp_path) == ["x.json"]


def test_a_file_and_a_folder_are_put_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").touch()
    inodes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: inodes.append(os.fstat(handle).st_ino))
    sync(tmp_path / "x")
    sync(tmp_path)
    assert inodes == [(tmp_path / "x").stat().st_ino, tmp_path.stat().st_ino]


def test_a_document_is_read_and_anything_else_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345678")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(10 << 30)
    assert read_document(tmp_path / "x", 8) == b"12345678"
    for name in ("pipe", "zero"):
        with pytest.raises(NotADocumentError, match="is a pipe or a device"):
            read_document(tmp_path / name)
    with pytest.raises(NotADocumentError, match="is larger than 16 MiB"):
        read_document(tmp_path / "large")
    with pytest.raises(FileNotFoundError):
        read_document(tmp_path / "absent")


def test_a_path_is_shown_from_the_working_folder_and_whole_where_that_is_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "runs" / "run.json"
    monkeypatch.chdir(tmp_path)
    assert path_from_here(file) == Path("runs/run.json")
    monkeypatch.chdir("/")
    assert path_from_here(file) == file
