"""Owns the credentials for an OCI registry: from the environment, else from ``docker login``. Sends nothing."""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.adapters.os.pod_secrets import OCI_PULL_SECRET
from sft.errors import StageError
from sft.logs import remember

USERNAME, PASSWORD = "OCI_USERNAME", "OCI_PASSWORD"
_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
_TOKEN_USER = "<token>"  # https://github.com/docker/docker-credential-helpers: the secret is an identity token


@dataclass(frozen=True, kw_only=True)
class Login:
    """A user name and a password, or a token that a token server accepts in their place."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        remember(self.password, self.identity_token)

    @property
    def header(self) -> str | None:
        """Return the header ``Authorization`` for basic authentication; None without a user name."""
        if not self.username:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def login(host: str, *, is_pull: bool = False) -> Login:
    """Return the credentials for a registry; an empty login if there are none.

    Args:
        host: The registry.
        is_pull: Whether a secret for pulling alone counts, before Docker's file.

    Raises:
        StageError: Docker's file can't be read, or its helper fails.
    """
    if os.environ.get(USERNAME):
        return Login(username=os.environ[USERNAME], password=os.environ.get(PASSWORD, ""))
    if is_pull and (text := os.environ.get(OCI_PULL_SECRET)):
        try:
            if found := _inline(json.loads(text), host):
                return found
        except (ValueError, AttributeError, TypeError) as error:  # never with the text
            message = f"{OCI_PULL_SECRET} is not the text of a Docker config.json ({type(error).__name__})"
            raise StageError(message, fix="kubectl create secret docker-registry makes such a text") from error
    file = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    if not file.is_file():
        return Login()
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return _inline(config, host) or _from_helper(config, host) or Login()
    except (OSError, ValueError, AttributeError) as error:  # never with the text: it holds passwords
        message = f"{file} can't be read as Docker's configuration ({type(error).__name__})"
        raise StageError(message, fix=f"docker login {host}, or set {USERNAME} and {PASSWORD}") from error


def _keys(host: str) -> tuple[str, ...]:
    """Return the names that a registry may have in Docker's file."""
    return (host, f"https://{host}", f"http://{host}", *((_HUB_KEY,) if host == _HUB else ()))


def _inline(config: Mapping[str, Any], host: str) -> Login | None:
    auths = {key.rstrip("/") if key != _HUB_KEY else key: entry for key, entry in config.get("auths", {}).items()}
    entry = next((auths[key] for key in _keys(host) if auths.get(key)), None)
    if not entry:
        return None
    if token := entry.get("identitytoken"):
        return Login(identity_token=token)
    if entry.get("auth"):
        try:
            username, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except binascii.Error as error:
            raise ValueError("auth is not base64") from error
        return Login(username=username, password=password)
    if entry.get("username"):
        return Login(username=entry["username"], password=entry.get("password", ""))
    return None


def _from_helper(config: Mapping[str, Any], host: str) -> Login | None:
    helpers = config.get("credHelpers", {})
    key = next((key for key in _keys(host) if key in helpers), _HUB_KEY if host == _HUB else host)
    helper = helpers.get(key) or config.get("credsStore")
    if not helper:
        return None
    program = f"docker-credential-{helper}"
    try:
        answer = subprocess.run([program, "get"], input=key, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"Docker's configuration names {program}, which fails ({type(error).__name__})"
        raise StageError(message, fix=f"install it, or set {USERNAME} and {PASSWORD}") from error
    if answer.returncode:  # it has no credentials for this registry
        return None
    entry = json.loads(answer.stdout)
    if entry["Username"] == _TOKEN_USER:
        return Login(identity_token=entry["Secret"])
    return Login(username=entry["Username"], password=entry["Secret"])
