"""Who we are to a registry: what the environment, Docker's file and its helpers say."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from sft.adapters.upload.login import Login, login
from sft.errors import StageError


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
