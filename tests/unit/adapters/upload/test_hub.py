"""Git's name of a file. The rest is tested against a real server."""

from __future__ import annotations

from pathlib import Path

from sft.adapters.upload.hub import git_blob


def test_gits_name_of_a_file_is_gits(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "hello").write_text("hello\n")
    assert git_blob(tmp_path / "empty") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git hash-object /dev/null
    assert (
        git_blob(tmp_path / "hello") == "ce013625030ba8dba906f756967f9e9ca394464a"
    )  # echo hello | git hash-object --stdin
