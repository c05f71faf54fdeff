"""Objects in a real S3 server, through s3fs, by the dataset stage and the command line."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sft.adapters import storage
from sft.artifacts import DatasetArtifact
from sft.config.schema import DatasetConfig
from sft.errors import DataError
from sft.progress import Progress
from sft.stages.dataset import dataset
from tests.command import records, sft, steps
from tests.servers import s3

# botocore and aiobotocore leave what closes itself to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def rows(*numbers: int) -> bytes:
    turns = [
        [{"role": "user", "content": str(number)}, {"role": "assistant", "content": f"{number}."}] for number in numbers
    ]
    return b"".join(json.dumps({"messages": messages}).encode() + b"\n" for messages in turns)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Folder of a bucket and the server's endpoint."""
    root = tmp_path_factory.mktemp("s3")
    folder = root / "bucket"
    (folder / "chat").mkdir(parents=True)
    (folder / "chat" / "a.jsonl").write_bytes(rows(*range(20)))
    (folder / "chat" / "b.jsonl.gz").write_bytes(gzip.compress(rows(*range(20, 30))))
    (folder / "chat" / "notes.txt").write_text("not data")
    with s3.serving(root) as endpoint:
        yield folder, endpoint


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def read(bucket: tuple[Path, str], where: str, out: Path, **options: Any) -> DatasetArtifact:
    settings = DatasetConfig(uri=f"s3://{where}", storage_options={"endpoint_url": bucket[1], **options})
    out.mkdir()
    return dataset(settings, out, Progress(quiet=True))


@pytest.mark.parametrize(
    ("key", "count"), [("bucket/chat/a.jsonl", 20), ("bucket/chat", 30), ("bucket/chat/", 30), ("bucket/chat/*.gz", 10)]
)
def test_an_object_a_prefix_and_a_glob_are_read(bucket: tuple[Path, str], key: str, count: int, tmp_path: Path) -> None:
    data = read(bucket, key, tmp_path / "out")
    assert data.num_rows == count
    assert sorted(path.name for path in data.root.iterdir()) == ["eval.jsonl", "rejected.jsonl", "train.jsonl"]


def test_a_changed_object_has_another_version(bucket: tuple[Path, str]) -> None:
    folder, endpoint = bucket
    options = {"endpoint_url": endpoint, "use_listings_cache": False}
    (folder / "changing.jsonl").write_bytes(rows(1))
    [before] = storage.find("s3://bucket/changing.jsonl", options)
    (folder / "changing.jsonl").write_bytes(rows(1, 2))
    assert storage.find("s3://bucket/changing.jsonl", {**options, "skip_instance_cache": True}) != [before]


@pytest.mark.parametrize(
    ("key", "options", "said"),
    [
        ("bucket/chat/none.jsonl", {}, "no such file"),
        ("elsewhere/a.jsonl", {}, "no such file"),
        ("bucket/chat/a.jsonl", {"key": s3.KEY_ID, "secret": "wrong-secret-1"}, "dataset.uri=s3://bucket"),
        ("bucket/chat/a.jsonl", {"endpoint_url": "http://127.0.0.1:9"}, "Could not connect"),
    ],
    ids=["missing key", "missing bucket", "wrong secret", "server away"],
)
def test_what_goes_wrong_is_said_in_a_line(
    bucket: tuple[Path, str], key: str, options: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        read(bucket, key, tmp_path / "out", **options)
    assert said in str(caught.value)
    assert "wrong-secret-1" not in str(caught.value)


def test_a_part_of_the_same_version_is_gone_on_with(bucket: tuple[Path, str], tmp_path: Path) -> None:
    options = {"endpoint_url": bucket[1]}
    [file] = storage.find("s3://bucket/chat/a.jsonl", options)
    whole = (bucket[0] / "chat" / "a.jsonl").read_bytes()
    marked = b"#" * 100  # stands for what had arrived: fetched again, it would be gone
    (tmp_path / "a.jsonl.part").write_bytes(marked)
    (tmp_path / "a.jsonl.part.json").write_text(json.dumps({"version": file.version}))
    storage.fetch(file, tmp_path / "a.jsonl", options, lambda *_: None)
    assert (tmp_path / "a.jsonl").read_bytes() == marked + whole[100:]
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_part_of_another_version_is_fetched_anew(bucket: tuple[Path, str], tmp_path: Path) -> None:
    options = {"endpoint_url": bucket[1]}
    [file] = storage.find("s3://bucket/chat/a.jsonl", options)
    (tmp_path / "a.jsonl.part").write_bytes(b"#" * 100)
    (tmp_path / "a.jsonl.part.json").write_text(json.dumps({"version": "another"}))
    storage.fetch(file, tmp_path / "a.jsonl", options, lambda *_: None)
    assert (tmp_path / "a.jsonl").read_bytes() == (bucket[0] / "chat" / "a.jsonl").read_bytes()


def test_an_object_that_changes_while_it_is_read_is_read_again(bucket: tuple[Path, str], tmp_path: Path) -> None:
    folder, endpoint = bucket
    shutil.copy(folder / "chat" / "a.jsonl", folder / "moving.jsonl")
    options = {"endpoint_url": endpoint}
    [file] = storage.find("s3://bucket/moving.jsonl", options)
    changes = iter([rows(*range(50))])

    def change(*_: object) -> None:
        for content in changes:
            (folder / "moving.jsonl").write_bytes(content)

    storage.fetch(file, tmp_path / "x", options, change)
    assert (tmp_path / "x").read_bytes() == rows(*range(50))


def test_the_command_line_reads_a_bucket_and_records_no_key(bucket: tuple[Path, str], tmp_path: Path) -> None:
    broken = ["model=hub", f"model.name_or_path={tmp_path}"]
    arguments = ["run", "quickstart", "dataset=s3", "dataset.uri=s3://bucket/chat", *broken]
    answer = sft(*arguments, cwd=tmp_path, AWS_ENDPOINT_URL=bucket[1])
    [record] = records(tmp_path / "runs")
    assert steps(record)["dataset"]["facts"]["num_rows"] == 30, answer.err
    assert s3.SECRET not in json.dumps(record)
    again = sft(*arguments, cwd=tmp_path, AWS_ENDPOINT_URL=bucket[1])
    assert "= dataset: done before" in again.out


def test_whatever_fsspec_knows_is_read_and_a_missing_package_is_named(tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/chat/rows.jsonl", rows(*range(20)))
    (tmp_path / "out").mkdir()
    data = dataset(DatasetConfig(uri="memory://chat/rows.jsonl"), tmp_path / "out", Progress(quiet=True))
    assert data.num_rows == 20
    with pytest.raises(DataError, match="gcsfs"):
        storage.find("gs://bucket/rows.jsonl", {})
