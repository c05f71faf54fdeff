"""Uploads to a real OCI registry: other clients find the files, nothing is sent twice, and what goes wrong is said."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from sft.artifacts import hash_files
from sft.errors import StageError
from tests.servers import oci
from tests.servers.wire import wire
from tests.support.register_inputs import written
from tests.support.uploading import FILES, MARK, bring, noise, package, start

MIB = 1 << 20
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that anybody may push to."""
    with oci.registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with a password."""
    with oci.registry(tmp_path_factory.mktemp("locked"), locked=True) as address:
        yield address


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No login of this machine's."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("OCI_USERNAME", raising=False)


def ask(host: str, path: str) -> Any:
    answer = urllib3.request("GET", f"http://{host}/v2/{path}", headers={"Accept": MANIFEST})
    assert answer.status == 200, answer.data
    return answer


def test_what_is_registered_is_a_manifest_by_digest_with_every_file(host: str, tmp_path: Path) -> None:
    packaged = package(tmp_path / "package")
    made, told = bring(f"oci://{host}/org/speller", packaged, tmp_path / "out", model_version="2.0+cpu")
    place, _, digest = made.uri.partition("@")
    assert place == f"oci://{host}/org/speller"
    answer = ask(host, f"org/speller/manifests/{digest}")
    assert f"sha256:{hashlib.sha256(answer.data).hexdigest()}" == digest
    layers = {layer["annotations"]["org.opencontainers.image.title"]: layer for layer in answer.json()["layers"]}
    assert {name: ask(host, f"org/speller/blobs/{one['digest']}").data for name, one in layers.items()} == FILES
    tags = ask(host, "org/speller/tags/list").json()["tags"]
    assert sorted(tags) == sorted(["2.0-cpu", packaged.digest[:16]])
    assert f"uploaded 6 of 6 files to {made.uri}" in told


def test_oras_pulls_the_model(host: str, tmp_path: Path) -> None:
    from oras.client import OrasClient

    bring(f"oci://{host}/org/pulled:latest", package(tmp_path / "package"), tmp_path / "out")
    OrasClient(insecure=True).pull(target=f"{host}/org/pulled:latest", outdir=str(tmp_path / "pulled"))
    assert hash_files(tmp_path / "pulled") == hash_files(tmp_path / "package" / "model")


def test_a_later_model_takes_the_tag_and_leaves_the_earlier_one(host: str, tmp_path: Path) -> None:
    first, second = package(tmp_path / "first"), package(tmp_path / "second", {**FILES, "config.json": b"[]"})
    before, _ = bring(f"oci://{host}/org/moving:latest", first, tmp_path / "out")
    with wire(f"http://{host}") as way:
        through = f"oci://{way.endpoint.removeprefix('http://')}/org/moving:latest"
        after, told = bring(through, second, tmp_path / "other")
    digests = [uri.partition("@")[2] for uri in (before.uri, after.uri)]
    assert digests[0] != digests[1]
    assert "uploaded 1 of 6 files" in told
    for digest, tag in zip(digests, (first.digest[:16], second.digest[:16]), strict=True):
        assert ask(host, f"org/moving/manifests/{tag}").data == ask(host, f"org/moving/manifests/{digest}").data
    assert ask(host, "org/moving/manifests/latest").data == ask(host, f"org/moving/manifests/{digests[1]}").data


def test_the_same_model_is_found(host: str, tmp_path: Path) -> None:
    packaged = package(tmp_path / "package", {"model.safetensors": noise(2 * MIB), "sft.json": b"{}"})
    made, _ = bring(f"oci://{host}/org/same", packaged, tmp_path / "out")
    with wire(f"http://{host}") as way:
        again, told = bring(f"oci://{way.endpoint.removeprefix('http://')}/org/same", packaged, tmp_path / "again")
        assert way.num_bytes_there < MIB // 4
    assert again.uri.partition("@")[2] == made.uri.partition("@")[2]
    assert "has the same files already" in told


@pytest.mark.slow
def test_a_killed_upload_does_not_send_again_what_was_whole(host: str, tmp_path: Path) -> None:
    files = {"model-1.safetensors": noise(40 * MIB), "model-2.safetensors": noise(40 * MIB, seed=1), "sft.json": b"{}"}
    packaged = package(tmp_path / "package", files)
    with wire(f"http://{host}") as way:
        uri = f"oci://{way.endpoint.removeprefix('http://')}/org/killed"
        process = start(uri, packaged, tmp_path / "out")
        while way.num_bytes_there < 60 * MIB:
            assert process.poll() is None
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        before = way.num_bytes_there
        assert before < 80 * MIB
        _, told = bring(uri, packaged, tmp_path / "out")
        assert way.num_bytes_there - before < 60 * MIB  # one of the files, and what was still on its way
    assert "uploaded 2 of 3 files" in told


def test_bytes_that_become_others_on_their_way_are_refused_and_the_file_named(host: str, tmp_path: Path) -> None:
    with wire(f"http://{host}", damages={"there": (MARK, MARK.upper())}) as way:
        uri = f"oci://{way.endpoint.removeprefix('http://')}/org/damaged"
        with pytest.raises(StageError, match=r"config\.json: other bytes have arrived"):
            bring(uri, package(tmp_path / "package"), tmp_path / "out")
    assert urllib3.request("GET", f"http://{host}/v2/org/damaged/tags/list").status == 404


def test_a_file_that_changed_since_it_was_packaged_is_named(host: str, tmp_path: Path) -> None:
    packaged = package(tmp_path / "package")
    recorded = hash_files(packaged.root)
    (packaged.model_dir / "config.json").write_bytes(b"[1]")
    with pytest.raises(StageError, match=r"config\.json: changed after it was packaged"):
        bring(f"oci://{host}/org/changed", packaged, tmp_path / "out", recorded)


def test_a_login_comes_from_the_environment_or_from_dockers_file(
    locked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged, uri = package(tmp_path / "package"), f"oci://{locked}/org/speller"
    (tmp_path / "docker").mkdir()
    known = base64.b64encode(f"{oci.USERNAME}:{oci.PASSWORD}".encode()).decode()
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {locked: {"auth": known}}}))
    first, _ = bring(uri, packaged, tmp_path / "out")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("OCI_USERNAME", oci.USERNAME)
    monkeypatch.setenv("OCI_PASSWORD", oci.PASSWORD)
    assert bring(uri, packaged, tmp_path / "again")[0].uri == first.uri
    everything = written(tmp_path / "out") + written(tmp_path / "again")
    assert not [secret for secret in (oci.PASSWORD, known) if secret in everything]


@pytest.mark.parametrize("password", [None, "canary-wrong-password"])
def test_a_wrong_login_is_said_at_once(
    password: str | None, locked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if password:
        monkeypatch.setenv("OCI_USERNAME", oci.USERNAME)
        monkeypatch.setenv("OCI_PASSWORD", password)
    with pytest.raises(StageError, match=r"answers 401 .* it refuses the login") as failed:
        bring(f"oci://{locked}/org/speller", package(tmp_path / "package"), tmp_path / "out")
    assert "docker login" in str(failed.value)
    assert "canary" not in str(failed.value) + written(tmp_path / "out")


@pytest.mark.parametrize("way", ["password", "identity token"])
def test_a_token_is_fetched_for_what_is_done(way: str, tmp_path: Path) -> None:
    packaged = package(tmp_path / "package")
    (tmp_path / "docker").mkdir()
    known = base64.b64encode(f"{oci.USERNAME}:{oci.PASSWORD}".encode()).decode()
    auth = {"auth": known} if way == "password" else {"identitytoken": oci.PASSWORD}
    with oci.Tokens(tmp_path).serving() as tokens, oci.registry(tmp_path / "registry", tokens=tokens) as host:
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": "eDp5"}}}))
        with pytest.raises(StageError, match="refuses the login: its token server answers 401"):
            bring(f"oci://{host}/org/speller", packaged, tmp_path / "out")
        tokens.asked.clear()
        (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: auth}}))
        _, told = bring(f"oci://{host}/org/speller", packaged, tmp_path / "out")
    assert "uploaded 6 of 6 files" in told
    asked = [(by, scope.rpartition(":")[0], set(scope.rpartition(":")[2].split(","))) for by, scope in tokens.asked]
    assert asked == [(way, "repository:org/speller", {"pull"}), (way, "repository:org/speller", {"pull", "push"})]
    everything = written(tmp_path / "out")
    assert not [secret for secret in (oci.PASSWORD, known, "eyJ") if secret in everything]


@pytest.mark.slow
def test_a_registry_that_is_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"the registry 127\.0\.0\.1:9 can't be reached"):
        bring("oci://127.0.0.1:9/org/speller", package(tmp_path / "package"), tmp_path / "out")


def test_a_registry_elsewhere_is_spoken_to_with_tls_unless_told_otherwise(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged, uri = package(tmp_path / "package"), f"oci://0.0.0.0:{host.rpartition(':')[2]}/org/plain"
    with pytest.raises(StageError, match="TLS fails") as failed:
        bring(uri, packaged, tmp_path / "out")
    assert "OCI_PLAIN_HTTP=true if it has no TLS" in str(failed.value)
    monkeypatch.setenv("OCI_PLAIN_HTTP", "true")
    assert bring(uri, packaged, tmp_path / "again")[0].uri.startswith(uri)
