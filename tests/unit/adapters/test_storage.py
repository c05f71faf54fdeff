"""What is known of a remote source before it is asked; real servers are in tests/integration."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from sft.adapters import storage
from sft.errors import DataError


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(DataError, match="nosuch"):
        storage.find("nosuch://bucket/key", {})


def test_half_of_the_aws_keys_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    with pytest.raises(DataError, match="AWS_SECRET_ACCESS_KEY is not"):
        storage.find("s3://bucket/key.jsonl", {})


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_file_larger_than_is_allowed_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    with fsspec.open("memory://bombs/rows.jsonl", "wb") as file:
        file.write(b"x" * 101)
    [found] = storage.find("memory://bombs/rows.jsonl", {})
    with pytest.raises(DataError, match=r"rows.jsonl: 101 bytes or more, and dataset.max_download_bytes=100"):
        storage.download(found, tmp_path / "rows.jsonl", {}, lambda *_: None, max_bytes=100)
    assert not list(tmp_path.iterdir())
    storage.download(found, tmp_path / "rows.jsonl", {}, lambda *_: None, max_bytes=101)
    assert (tmp_path / "rows.jsonl").stat().st_size == 101
