"""Uploads to a hub with its real client: a model is a commit, nothing is sent twice, what goes wrong is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.artifacts import hash_files
from sft.errors import StageError
from sft.files import sha256_file
from tests.servers import hub, hub_upload
from tests.servers.hub_upload import Hub
from tests.support.register_inputs import written
from tests.support.uploading import FILES, MARK, bring, noise, package, start


@pytest.fixture
def taking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that is empty, and a token for it."""
    with hub_upload.taking(tmp_path / "hub") as (endpoint, one):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        yield one


def download(uri: str, target: Path) -> Path:
    """The files of a uri, by the hub's client in a process of its own."""
    repo, _, commit = uri.removeprefix("hf://").partition("@")
    fetch = "import sys; from huggingface_hub import snapshot_download as get; _, a, b, c = sys.argv; "
    fetch += "get(a, revision=b, local_dir=c)"
    subprocess.run([sys.executable, "-c", fetch, repo, commit, str(target)], check=True, capture_output=True)
    return target


def test_a_private_repository_is_made_and_the_uri_is_its_commit(taking: Hub, tmp_path: Path) -> None:
    packaged = package(tmp_path / "package")
    made, told = bring("hf://org/speller", packaged, tmp_path / "out", model_version="2.1")
    assert taking.private == {"org/speller": True}
    assert taking.commits == ["speller 2.1"]
    assert made.uri == f"hf://org/speller@{taking.repos['org/speller'].commit}"
    assert f"uploaded 6 of 6 files to {made.uri}\n" in f"{told}\n"
    there = download(made.uri, tmp_path / "there")
    assert {name: (there / name).read_bytes() for name in FILES} == FILES
    assert hub.TOKEN not in written(tmp_path / "out")


def test_a_repository_that_is_public_is_said_to_be(taking: Hub, tmp_path: Path) -> None:
    taking.create("org/speller")
    _, told = bring("hf://org/speller", package(tmp_path / "package"), tmp_path / "out")
    assert "; that repository was there, and is public" in told


def test_the_same_model_makes_no_commit(taking: Hub, tmp_path: Path) -> None:
    packaged = package(tmp_path / "package")
    made, _ = bring("hf://org/speller", packaged, tmp_path / "out")
    again, told = bring("hf://org/speller", packaged, tmp_path / "again")
    assert (again.uri, len(taking.commits), len(taking.received)) == (made.uri, 1, 1)
    assert "has the same files already" in told


def test_a_later_model_has_its_own_files_only_and_the_earlier_commit_stays(taking: Hub, tmp_path: Path) -> None:
    first, _ = bring("hf://org/speller", package(tmp_path / "first"), tmp_path / "out")
    files = {name: content for name, content in FILES.items() if not name.startswith("adapter/")}
    second, told = bring(
        "hf://org/speller", package(tmp_path / "second", {**files, "config.json": b"[]"}), tmp_path / "other"
    )
    assert second.uri != first.uri
    assert "uploaded 1 of 5 files" in told
    assert taking.repos["org/speller"].at("main").files() == sorted([".gitattributes", *files])  # type: ignore[union-attr]
    there = download(first.uri, tmp_path / "there")
    assert {name: (there / name).read_bytes() for name in FILES} == FILES


def test_a_killed_upload_sends_only_what_the_hub_lacks(taking: Hub, tmp_path: Path) -> None:
    files = {f"model-{n}.safetensors": noise(1 << 20, seed=n) for n in (1, 2)}
    packaged = package(tmp_path / "package", {**files, "sft.json": b"{}"})
    first, second = (sha256_file(packaged.model_dir / name) for name in files)
    taking.holds = second
    process = start("hf://org/killed", packaged, tmp_path / "out")
    assert taking.held.wait(60)
    while first not in taking.received:
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    taking.released.set()
    taking.holds = None
    assert taking.commits == []
    bring("hf://org/killed", packaged, tmp_path / "out")
    assert taking.received == [first, second]
    assert len(taking.commits) == 1


def test_a_file_that_the_hub_has_otherwise_is_named(taking: Hub, tmp_path: Path) -> None:
    taking.damages = (MARK, MARK.upper())
    with pytest.raises(StageError, match=r"config\.json: other bytes have arrived: its digest there is git's "):
        bring("hf://org/damaged", package(tmp_path / "package"), tmp_path / "out")
    taking.damages = None
    bring("hf://org/damaged", package(tmp_path / "package"), tmp_path / "out")
    assert len(taking.commits) == 2


def test_a_file_that_changed_since_it_was_packaged_is_not_sent(taking: Hub, tmp_path: Path) -> None:
    packaged = package(tmp_path / "package")
    recorded = hash_files(packaged.root)
    (packaged.model_dir / "config.json").write_bytes(b"[1]")
    with pytest.raises(StageError, match=r"config\.json: changed after it was packaged"):
        bring("hf://org/changed", packaged, tmp_path / "out", recorded)
    assert taking.commits == []


@pytest.mark.parametrize(
    ("uri", "environment", "said"),
    [
        ("hf://org/speller", {"HF_TOKEN": "hf_canarycanarycanarycanary"}, "does not allow writing to org/speller (401"),
        ("hf://others/speller", {}, "does not allow writing to others/speller (403"),
        ("hf://org/speller", {"HF_ENDPOINT": hub.AWAY}, "can't be reached"),
        ("hf://org/speller", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
    ],
    ids=["token", "right", "away", "offline"],
)
def test_what_goes_wrong_is_said_with_what_to_try(
    uri: str,
    environment: dict[str, str],
    said: str,
    taking: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StageError) as failed:
        bring(uri, package(tmp_path / "package"), tmp_path / "out")
    assert said in str(failed.value)
    assert not [s for s in ("canary", hub.TOKEN) if s in str(failed.value) + written(tmp_path / "out")]
