"""What of a folder is not read, here and on a server; each name is one of the folder, whatever else has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.adapters import storage
from sft.adapters.unread_files import unread


def filled(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"a": 1}\n')
    return str(folder)


def left(uri: str) -> list[str]:
    return unread(uri, {}, storage.find(uri, {}))


@pytest.mark.parametrize("kind", ["{}", "file://{}"])
def test_a_name_that_two_folders_have_is_told_of_the_one_that_is_not_read(kind: str, tmp_path: Path) -> None:
    """The folder lies in one called ``data``, as that which is read otherwise does."""
    folder = tmp_path / "data"
    uri = kind.format(filled(folder, "part-0.jsonl", "data/part-0.jsonl", "sub/deep/part-0.jsonl", "README.md"))
    assert left(uri) == ["data/part-0.jsonl", "sub/deep/part-0.jsonl"]
    (folder / "part-0.jsonl").unlink()
    assert left(uri) == ["sub/deep/part-0.jsonl"]


def test_of_a_file_nothing_is_left(tmp_path: Path) -> None:
    filled(tmp_path, "a.jsonl", "b.jsonl")
    assert left(str(tmp_path / "a.jsonl")) == []
    assert left(f"{tmp_path}/a*") == []
    assert left(str(tmp_path)) == []
    assert left(f"{filled(tmp_path, 'c.ndjson')}/") == ["c.ndjson"]
