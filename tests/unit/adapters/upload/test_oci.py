"""A model as an OCI artifact: its manifest repeats the record; and who we are to a registry."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from sft.adapters.upload import Upload, oci
from sft.adapters.upload.login import Login, login
from sft.adapters.upload.oci_client import _is_local
from sft.artifacts import hash_files
from sft.errors import StageError
from tests.support.uploading import package


@pytest.fixture
def model(tmp_path: Path) -> Upload:
    folder = package(tmp_path).model_dir
    digests = hash_files(folder)
    return Upload(
        host="host",
        path="org/speller",
        tag=None,
        folder=str(folder),
        files=digests,
        digest="d" * 64,
        name="speller",
        version="1.0",
    )


def test_a_layer_is_a_file_with_its_recorded_digest_and_its_name_for_both_kinds_of_clients(model: Upload) -> None:
    manifest = json.loads(oci.manifest_of(model, {}))
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    layers = {layer["annotations"]["org.opencontainers.image.title"]: layer for layer in manifest["layers"]}
    assert {name: layer["digest"] for name, layer in layers.items()} == {
        name: f"sha256:{digest}" for name, digest in model.files.items()
    }
    assert all(layer["annotations"]["org.cncf.model.filepath"] == name for name, layer in layers.items())
    assert {name: layer["size"] for name, layer in layers.items()} == {name: model.size(name) for name in layers}
    assert {name: layer["mediaType"].removeprefix("application/vnd.cncf.model.") for name, layer in layers.items()} == {
        "README.md": "doc.v1.raw",
        "adapter/adapter_config.json": "weight.config.v1.raw",
        "config.json": "weight.config.v1.raw",
        "empty.txt": "weight.config.v1.raw",
        "model.safetensors": "weight.v1.raw",
        "sft.json": "doc.v1.raw",
    }
    assert manifest["annotations"]["package.digest"] == "d" * 64


def test_the_config_names_the_model_and_its_layers_in_order(model: Upload) -> None:
    config = json.loads(oci.config_of(model))
    assert config["descriptor"] == {"name": "speller", "version": "1.0"}
    assert config["modelfs"] == {"type": "layers", "diffIds": [f"sha256:{digest}" for digest in model.files.values()]}


def test_the_same_model_has_the_same_bytes(model: Upload) -> None:
    assert oci.manifest_of(model, {}) == oci.manifest_of(model, {})
    assert hashlib.sha256(oci.config_of(model)).digest() == hashlib.sha256(oci.config_of(model)).digest()


@pytest.mark.parametrize(
    ("version", "tag"),
    [("1.0.0", "1.0.0"), ("1.0+cu12", "1.0-cu12"), ("-rc", "v-rc"), ("", "v"), ("x" * 200, "x" * 128), ("Ä1", "-1")],
)
def test_a_label_becomes_a_tag(version: str, tag: str) -> None:
    assert oci.tag_of(version).removeprefix("v") == tag.removeprefix("v")


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.9.9.9:1", True),
        ("ghcr.io", False),
        ("10.0.0.1:5000", False),
    ],
)
def test_only_this_machine_is_spoken_to_without_tls(host: str, here: bool) -> None:
    assert _is_local(host) is here


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's folder; no login in the environment."""
    monkeypatch.delenv("OCI_USERNAME", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def basic(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def test_the_environment_comes_before_dockers_file(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker.write_text(json.dumps({"auths": {"ghcr.io": {"auth": basic("ada", "one")}}}))
    assert login("ghcr.io") == Login(username="ada", password="one")
    monkeypatch.setenv("OCI_USERNAME", "bob")
    monkeypatch.setenv("OCI_PASSWORD", "two")
    assert login("ghcr.io") == Login(username="bob", password="two")


@pytest.mark.parametrize(
    ("host", "key", "facts", "known"),
    [
        ("ghcr.io", "https://ghcr.io", {"auth": basic("ada", "a:b")}, Login(username="ada", password="a:b")),
        ("docker.io", "https://index.docker.io/v1/", {"auth": basic("a", "b")}, Login(username="a", password="b")),
        ("ghcr.io", "ghcr.io", {"identitytoken": "t"}, Login(identity_token="t")),
        ("ghcr.io", "quay.io", {"auth": basic("ada", "a")}, Login()),
        ("ghcr.io", "ghcr.io", {}, Login()),
    ],
)
def test_dockers_file_is_read(docker: Path, host: str, key: str, facts: dict[str, str], known: Login) -> None:
    docker.write_text(json.dumps({"auths": {key: facts}}))
    assert login(host) == known


def test_dockers_helper_is_asked(docker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    answer = """read host; [ "$host" = ghcr.io ] && echo '{"Username": "ada", "Secret": "kept"}'"""
    helper.write_text(f"#!/bin/sh\n{answer}\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    docker.write_text(json.dumps({"auths": {"ghcr.io": {}}, "credsStore": "test"}))
    assert login("ghcr.io") == Login(username="ada", password="kept")
    assert login("quay.io") == Login()
    docker.write_text(json.dumps({"credHelpers": {"ghcr.io": "absent"}}))
    with pytest.raises(StageError, match="docker-credential-absent, which fails"):
        login("ghcr.io")


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"ghcr.io": {"auth": "canary-not-base64!"}}}'])
def test_a_broken_file_is_named_and_nothing_of_it_shown(docker: Path, text: str) -> None:
    docker.write_text(text)
    with pytest.raises(StageError, match="can't be read as Docker's configuration") as failed:
        login("ghcr.io")
    assert "canary" not in str(failed.value)


def test_a_login_does_not_show_its_password() -> None:
    assert "secret" not in repr(Login(username="ada", password="secret", identity_token="secret"))
