"""What is known of a remote source before it is asked; real servers are in tests/integration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sft.adapters import storage
from sft.errors import DataError
from tests.servers import hub


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


@pytest.mark.parametrize(
    "uri",
    [
        *("reference://rows.jsonl", "filecache:///x/rows.jsonl", "blockcache://x", "cached://x", "dask://x", "zip://a"),
        *("local:///x/rows.jsonl", "generic://x", "jupyter://x", "data://x", "git://x", "nosuch://x", "dir://x"),
    ],
)
def test_what_names_no_server_is_refused_with_those_that_there_are(uri: str, tmp_path: Path) -> None:
    options = {"target_protocol": "file", "cache_storage": str(tmp_path)}
    with pytest.raises(DataError, match=r":// is not read; there are http://, https://, .*s3://"):
        storage.find(uri, options)


@pytest.mark.parametrize(
    "uri", ["zip://a.jsonl::{}/a.zip", "simplecache::s3://b/x.jsonl", "::x", "a::http://h/x.jsonl"]
)
def test_an_address_within_an_address_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"addresses within addresses \(::\) are not read"):
        storage.find(uri.format(tmp_path), {})


def test_a_file_may_have_colons_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a::b.jsonl").write_text("{}\n")
    [found] = storage.find(str(tmp_path / "a::b.jsonl"), {})
    assert found.name.endswith("a::b.jsonl")


def test_a_changed_file_of_the_hub_has_another_version_whatever_its_size(tmp_path: Path) -> None:
    with hub.serving({"org/data": hub.Repo(tmp_path, "datasets")}) as endpoint:
        for uri in ("x.jsonl", "", "*.jsonl"):
            versions = []
            for content in ("yes\n", "yes\n", "no!\n"):
                (tmp_path / "x.jsonl").write_text(content)
                [found] = storage.find(f"hf://datasets/org/data/{uri}", {"endpoint": endpoint})
                versions.append(found.version)
            assert versions[0] == versions[1] != versions[2], uri


class Silent(MemoryFileSystem):
    """Files of which nothing but their size is told."""

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {name: value for name, value in super().info(path).items() if name in {"name", "size", "type"}}


def test_a_file_of_which_only_the_size_is_told_is_known_by_its_content() -> None:
    remote = storage.Remote("memory://silent/rows.jsonl", Silent(), "/silent/rows.jsonl")
    versions = []
    for content in (b"yes", b"yes", b"no!"):
        remote.filesystem.pipe_file(remote.path, content)
        versions.append(remote.file(remote.info()).version)
    assert versions[0] == versions[1] != versions[2]
