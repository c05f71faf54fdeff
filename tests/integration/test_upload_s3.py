"""Uploads to a real S3 server: all files, right bytes, nothing sent twice, and what goes wrong is said."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.artifacts import hash_files
from sft.errors import StageError
from tests.servers import rclone
from tests.servers.wire import wire
from tests.support.register_inputs import written
from tests.support.uploading import FILES, MARK, bring, noise, package, start

MIB = 1 << 20
LARGE = 112 * MIB  # seven parts


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Folder of a bucket and the server's endpoint."""
    root = tmp_path_factory.mktemp("s3")
    (root / "bucket").mkdir()
    with rclone.s3(root, written=True) as endpoint:
        yield root / "bucket", endpoint


@pytest.fixture(autouse=True)
def keys(bucket: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket[1])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rclone.KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rclone.SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_below_the_models_digest_and_the_next_model_beside_it(
    bucket: tuple[Path, str], tmp_path: Path
) -> None:
    first, second = package(tmp_path / "first"), package(tmp_path / "second", {**FILES, "config.json": b"[]"})
    made, told = bring("s3://bucket/models/speller", first, tmp_path / "out")
    assert made.uri == f"s3://bucket/models/speller/{first.digest[:16]}"
    assert (made.num_files, made.num_bytes) == (len(FILES), sum(map(len, FILES.values())))
    assert f"uploaded 6 of 6 files to {made.uri}" in told
    other, _ = bring("s3://bucket/models/speller", second, tmp_path / "other")
    assert other.uri != made.uri
    there = bucket[0] / "models" / "speller"
    assert files(there / first.digest[:16]) == FILES
    assert files(there / second.digest[:16])["config.json"] == b"[]"


def test_a_bucket_may_have_no_prefix(bucket: tuple[Path, str], tmp_path: Path) -> None:
    packaged = package(tmp_path / "package", {"sft.json": b"none"})
    assert bring("s3://bucket", packaged, tmp_path / "out")[0].uri == f"s3://bucket/{packaged.digest[:16]}"
    assert files(bucket[0] / packaged.digest[:16]) == {"sft.json": b"none"}


def test_what_is_there_is_compared_and_not_sent_again(bucket: tuple[Path, str], tmp_path: Path) -> None:
    packaged = package(tmp_path / "package", {"model.safetensors": noise(20 * MIB), "sft.json": b"again"})
    bring("s3://bucket/again", packaged, tmp_path / "out")
    with wire(bucket[1]) as way, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", way.endpoint)
        _, told = bring("s3://bucket/again", packaged, tmp_path / "again")
        assert way.num_bytes_there < MIB
        assert way.num_bytes > 20 * MIB
    assert "has the same files already" in told


def test_an_object_with_other_bytes_is_sent_again(bucket: tuple[Path, str], tmp_path: Path) -> None:
    packaged = package(tmp_path / "package")
    made, _ = bring("s3://bucket/other", packaged, tmp_path / "out")
    damaged = bucket[0] / "other" / packaged.digest[:16] / "model.safetensors"
    damaged.write_bytes(b"?" + damaged.read_bytes()[1:])
    _, told = bring("s3://bucket/other", packaged, tmp_path / "again")
    assert f"uploaded 1 of 6 files to {made.uri}" in told
    assert files(damaged.parent) == FILES


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_upload_goes_on_within_a_large_file(bucket: tuple[Path, str], tmp_path: Path) -> None:
    packaged = package(tmp_path / "package", {"model.safetensors": noise(LARGE), "sft.json": b"killed"})
    there = bucket[0] / "killed" / packaged.digest[:16]
    with wire(bucket[1]) as way:
        process = start("s3://bucket/killed", packaged, tmp_path / "out", AWS_ENDPOINT_URL=way.endpoint)
        while way.num_bytes_there < 68 * MIB:  # of the four parts under way, one at least is whole
            assert process.poll() is None
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        sent = way.num_bytes_there
    assert sent < LARGE
    assert not (there / "sft.json").exists()
    with wire(bucket[1]) as way, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", way.endpoint)
        _, told = bring("s3://bucket/killed", packaged, tmp_path / "out")
        assert way.num_bytes_there < LARGE - 16 * MIB + MIB
    assert "uploaded 2 of 2 files" in told
    assert files(there) == {"model.safetensors": noise(LARGE), "sft.json": b"killed"}
    assert not (tmp_path / "out" / "logs" / "upload" / "state.json").exists()


@pytest.mark.slow
def test_an_upload_that_the_server_knows_no_more_is_begun_anew(bucket: tuple[Path, str], tmp_path: Path) -> None:
    packaged = package(tmp_path / "package", {"model.safetensors": noise(17 * MIB), "sft.json": b"unknown"})
    state = tmp_path / "out" / "logs" / "upload" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text('{"model.safetensors": {"upload_id": "00000000-0000-0000-0000-000000000000"}}')
    bring("s3://bucket/unknown", packaged, tmp_path / "out")
    assert files(bucket[0] / "unknown" / packaged.digest[:16])["model.safetensors"] == noise(17 * MIB)


def test_bytes_that_came_out_otherwise_are_noticed_and_the_file_named(bucket: tuple[Path, str], tmp_path: Path) -> None:
    packaged = package(tmp_path / "package")
    with wire(bucket[1], damages={"back": (MARK, MARK.upper())}) as way, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", way.endpoint)
        with pytest.raises(StageError, match=r"config\.json: other bytes have arrived: its digest there is"):
            bring("s3://bucket/damaged", packaged, tmp_path / "out")
    assert not (bucket[0] / "damaged" / packaged.digest[:16] / "sft.json").exists()
    bring("s3://bucket/damaged", packaged, tmp_path / "out")
    assert files(bucket[0] / "damaged" / packaged.digest[:16]) == FILES


def test_a_file_that_changed_since_it_was_packaged_is_named(tmp_path: Path) -> None:
    packaged = package(tmp_path / "package")
    file = packaged.model_dir / "config.json"
    recorded = hash_files(packaged.root)
    file.write_bytes(b"{}")
    with pytest.raises(StageError, match=f"{file}: changed after it was packaged"):
        bring("s3://bucket/changed", packaged, tmp_path / "out", recorded)


@pytest.mark.parametrize(
    ("uri", "environment", "said"),
    [
        ("s3://nowhere/x", {}, "there is no bucket nowhere"),
        ("s3://bucket/x", {"AWS_SECRET_ACCESS_KEY": "canary-wrong-secret"}, "it refuses the key"),
        ("s3://bucket/x", {"AWS_ACCESS_KEY_ID": "canary-wrong-id"}, "it refuses the key"),
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "can't be reached"),
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "127.0.0.1:9"}, "Invalid endpoint"),
        ("s3://bucket/x", {"AWS_SECRET_ACCESS_KEY": ""}, "no credentials"),
    ],
    ids=["bucket", "secret", "id", "away", "no scheme", "half a key"],
)
def test_what_goes_wrong_is_said_with_what_to_try(
    uri: str, environment: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StageError) as failed:
        bring(uri, package(tmp_path / "package"), tmp_path / "out")
    assert f"uploading to {uri} failed: " in str(failed.value)
    assert said in str(failed.value)
    secrets = ("canary-wrong-secret", rclone.SECRET)
    assert not [secret for secret in secrets if secret in str(failed.value) + written(tmp_path / "out")]
