"""Files behind fsspec, in real servers: found, fetched and gone on with, by the dataset stage and the command line."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.adapters import storage
from sft.artifacts import DatasetArtifact
from sft.config.schema import DatasetConfig
from sft.errors import DataError
from sft.progress import Progress
from sft.stages.dataset import dataset
from tests.servers import rclone
from tests.servers.wire import wire
from tests.support.command import records, sft, steps

# botocore and aiobotocore leave what closes itself to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

NO_RETRIES = {"config_kwargs": {"retries": {"max_attempts": 0}}}  # botocore's own, which take seconds
LARGE = 10 << 20  # two chunks and a half


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
    (folder / "chat" / "folder.gz").mkdir()
    (folder / "chat" / "folder.gz" / "c.jsonl").write_bytes(rows(100))
    (folder / "large.jsonl").write_bytes(random.Random(0).randbytes(LARGE))
    with rclone.s3(root) as endpoint:
        yield folder, endpoint


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rclone.KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rclone.SECRET)
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


@pytest.mark.parametrize("key", ["changing/a.jsonl", "changing", "changing/*"])
def test_a_changed_object_has_another_version_in_the_same_process(key: str, bucket: tuple[Path, str]) -> None:
    folder, options = bucket[0] / "changing", {"endpoint_url": bucket[1]}
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_bytes(rows(1))
    before = storage.find(f"s3://bucket/{key}", options)
    assert storage.find(f"s3://bucket/{key}", options) == before
    (folder / "a.jsonl").write_bytes(rows(1, 2))
    assert storage.find(f"s3://bucket/{key}", options) != before


@pytest.mark.parametrize(
    ("key", "options", "said", "fix"),
    [
        ("bucket/chat/none.jsonl", {}, "no such file", "the bucket and the key"),
        ("elsewhere/a.jsonl", {}, "no such file", "the bucket and the key"),
        ("bucket/chat/*.parquet", {}, "no file that can be read", "point it at"),
        ("bucket/chat/a.jsonl", {"key": rclone.KEY_ID, "secret": "wrong-secret-1"}, "Forbidden", "AWS_SECRET_ACCESS"),
        ("bucket/chat", {"key": rclone.KEY_ID, "secret": "wrong-secret-1"}, "Forbidden", "AWS_SECRET_ACCESS"),
        ("bucket/chat/a.jsonl", {"endpoint_url": "http://127.0.0.1:9"}, "Could not connect", "endpoint_url"),
        ("bucket/chat/a.jsonl", {"endpoint_url": "127.0.0.1"}, "Invalid endpoint: 127.0.0.1", "storage_options"),
        ("bucket/chat/a.jsonl", {"end_point": "x"}, "unexpected keyword argument 'end_point'", "storage_options"),
    ],
    ids=["key", "bucket", "glob", "secret", "secret for a prefix", "server away", "no scheme", "option"],
)
def test_what_goes_wrong_is_said_with_what_to_try(
    bucket: tuple[Path, str], key: str, options: dict[str, str], said: str, fix: str
) -> None:
    with pytest.raises(DataError) as caught:
        storage.find(f"s3://{key}", {"endpoint_url": bucket[1], **NO_RETRIES, **options})
    assert f"s3://{key}: " in caught.value.message
    assert said in caught.value.message
    assert fix in str(caught.value.fix)
    assert "wrong-secret-1" not in str(caught.value)


def test_a_certificate_that_does_not_verify_is_an_error_until_it_is_trusted(
    bucket: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(make, check=True, capture_output=True)
    with rclone.s3(bucket[0].parent, (certificate, key)) as endpoint:
        options = {"endpoint_url": endpoint, **NO_RETRIES}
        with pytest.raises(DataError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            storage.find("s3://bucket/chat/a.jsonl", options)
        assert "AWS_CA_BUNDLE" in str(caught.value.fix)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        assert storage.find("s3://bucket/chat/a.jsonl", {**options, "skip_instance_cache": True})


def fetch(endpoint: str, key: str, target: Path, progress: Callable[..., None] = lambda *_: None) -> None:
    options = {"endpoint_url": endpoint, **NO_RETRIES}
    [file] = storage.find(f"s3://bucket/{key}", options)
    storage.download(file, target, options, progress)


def test_a_part_of_another_version_is_fetched_anew(bucket: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.part").write_bytes(b"#" * 100)
    (tmp_path / "a.jsonl.part.json").write_text(json.dumps({"version": "another"}))
    fetch(bucket[1], "chat/a.jsonl", tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (bucket[0] / "chat" / "a.jsonl").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_part_that_is_larger_than_the_object_is_fetched_anew(bucket: tuple[Path, str], tmp_path: Path) -> None:
    [file] = storage.find("s3://bucket/chat/a.jsonl", {"endpoint_url": bucket[1], **NO_RETRIES})
    (tmp_path / "a.jsonl.part").write_bytes(b"#" * 10_000)
    (tmp_path / "a.jsonl.part.json").write_text(json.dumps({"version": file.version}))
    fetch(bucket[1], "chat/a.jsonl", tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (bucket[0] / "chat" / "a.jsonl").read_bytes()


def test_a_connection_that_breaks_is_made_again_and_only_the_chunk_under_way_comes_twice(
    bucket: tuple[Path, str], tmp_path: Path
) -> None:
    with wire(bucket[1], cut_after=9 << 20, away_seconds=0.3) as way:
        fetch(way.endpoint, "large.jsonl", tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == (bucket[0] / "large.jsonl").read_bytes()
        assert LARGE < way.num_bytes < LARGE + (2 << 20)  # a MiB of the third chunk, and what was on its way


def test_a_later_call_goes_on_where_a_broken_one_has_stopped(
    bucket: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_RETRY", replace(storage._RETRY, first_wait_seconds=0.01))
    broken = wire(bucket[1], cut_after=LARGE // 2, away_seconds=60)
    with broken as way, pytest.raises(DataError, match="Could not connect") as caught:
        fetch(way.endpoint, "large.jsonl", tmp_path / "x")
    assert "resumes where it stopped" in str(caught.value.fix)
    arrived = (tmp_path / "x.part").stat().st_size
    assert arrived == 4 << 20
    assert not (tmp_path / "x").exists()
    with wire(bucket[1]) as way:
        fetch(way.endpoint, "large.jsonl", tmp_path / "x")
        assert LARGE - arrived < way.num_bytes < LARGE - arrived + 10_000
    assert (tmp_path / "x").read_bytes() == (bucket[0] / "large.jsonl").read_bytes()


def test_a_full_disk_is_an_os_error_and_the_next_try_goes_on(bucket: tuple[Path, str], tmp_path: Path) -> None:
    limited = (
        "import resource, signal, sys; from pathlib import Path; from sft.adapters import storage\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, 5 << 20))\n"
        "options = {'endpoint_url': sys.argv[1]}; [file] = storage.find('s3://bucket/large.jsonl', options)\n"
        "try: storage.download(file, Path(sys.argv[2]), options, lambda *_: None)\n"
        "except OSError as error: print('no space:', error.strerror)"
    )
    command = [sys.executable, "-c", limited, bucket[1], str(tmp_path / "x")]
    assert "no space: File too large" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    arrived = (tmp_path / "x.part").stat().st_size
    with wire(bucket[1]) as way:
        fetch(way.endpoint, "large.jsonl", tmp_path / "x")
        assert way.num_bytes < LARGE - arrived + 10_000
    assert (tmp_path / "x").read_bytes() == (bucket[0] / "large.jsonl").read_bytes()


@pytest.mark.parametrize("size", [2_000, LARGE])
def test_an_object_that_changes_while_it_is_read_is_read_again(
    size: int, bucket: tuple[Path, str], tmp_path: Path
) -> None:
    moving = bucket[0] / "moving.jsonl"
    moving.write_bytes(b"a" * size)
    changes = iter([b"b" * size])

    def change(*_: object) -> None:
        for content in changes:
            moving.write_bytes(content)

    fetch(bucket[1], "moving.jsonl", tmp_path / "x", change)
    assert (tmp_path / "x").read_bytes() == b"b" * size


def test_an_object_that_never_stands_still_is_an_error(bucket: tuple[Path, str], tmp_path: Path) -> None:
    moving = bucket[0] / "moving.jsonl"
    moving.write_bytes(rows(0))
    sizes = []

    def change(arrived: int, _: int | None) -> None:
        sizes.append(arrived)
        moving.write_bytes(moving.read_bytes() + rows(1))

    with pytest.raises(DataError, match="keeps changing"):
        fetch(bucket[1], "moving.jsonl", tmp_path / "x", change)
    assert len(sizes) == 4  # the first time, and three times anew
    assert not (tmp_path / "x").exists()


@pytest.mark.long
def test_the_command_line_reads_a_bucket_and_records_no_key(bucket: tuple[Path, str], tmp_path: Path) -> None:
    broken = ["model=hub", f"model.name_or_path={tmp_path}"]
    arguments = ["run", "quickstart", "dataset=s3", "dataset.uri=s3://bucket/chat", *broken]
    answer = sft(*arguments, cwd=tmp_path, AWS_ENDPOINT_URL=bucket[1])
    [record] = records(tmp_path / "runs")
    assert steps(record)["dataset"]["facts"]["num_rows"] == 30, answer.err
    assert rclone.SECRET not in json.dumps(record)
    again = sft(*arguments, cwd=tmp_path, AWS_ENDPOINT_URL=bucket[1])
    assert "= dataset: done before" in again.out


def test_a_server_of_any_protocol_is_read_and_its_password_kept_out(tmp_path: Path) -> None:
    (tmp_path / "in" / "chat").mkdir(parents=True)
    (tmp_path / "in" / "chat" / "a.jsonl").write_bytes(rows(*range(20)))
    (tmp_path / "in" / "chat" / "b.jsonl").write_bytes(rows(*range(20, 30)))
    (tmp_path / "out").mkdir()
    with rclone.ftp(tmp_path / "in") as address:
        data = dataset(DatasetConfig(uri=f"{address}/chat"), tmp_path / "out", Progress(quiet=True))
        with pytest.raises(DataError) as caught:
            storage.find(f"{address}/none.jsonl", {})
    assert data.num_rows == 30
    assert rclone.SECRET not in data.source_version + data.source + str(caught.value)


def test_whatever_fsspec_knows_is_read_and_a_missing_package_is_named(tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/chat/rows.jsonl", rows(*range(20)))
    (tmp_path / "out").mkdir()
    data = dataset(DatasetConfig(uri="memory://chat/rows.jsonl"), tmp_path / "out", Progress(quiet=True))
    assert data.num_rows == 20
    with pytest.raises(DataError, match="gcsfs"):
        storage.find("gs://bucket/rows.jsonl", {})
