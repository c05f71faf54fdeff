"""Owns the Kubeflow Model Registry client: one registered model, one version, one model artifact.

The three are separate calls of a client that neither retries nor cleans up. So `register` first reads what the registry
has and adds only what is missing; it may be repeated after any failure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.adapters.os import child
from sft.adapters.os.process import run_module
from sft.adapters.registry import DIGEST_KEY, Fact, ListedModel, Registered, Registration
from sft.adapters.retry import RetryPolicy, retry, retry_after_seconds
from sft.errors import StageError

if TYPE_CHECKING:
    from model_registry import ModelRegistry
    from model_registry.types import ModelVersion

TOKEN = "MODEL_REGISTRY_TOKEN"
"""Environment variable that holds the bearer token."""

_ADDRESS = "SFT_REGISTRY_ADDRESS"
_TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"  # as the client reads it, model_registry/_client.py:66@0.3.18
_POD_TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_LARGEST_INT = 999_999_999  # MetadataIntValue's pattern has nine digits; larger counts go as doubles
_RETRY = RetryPolicy(max_attempts=4, first_wait_seconds=0.5)
_RETRY_HINT = "earlier stages are done; repeat the command to register"
_FIXES = {
    400: "check registry.model_name, registry.model_version and registry.description; ",
    404: "check registry.address and registry.port; ",
    409: "choose a new registry.model_version, or registry.on_conflict=next_version; ",
    422: "check registry.model_name, registry.model_version and registry.description; ",
}


def register(
    registration: Registration,
    *,
    address: str,
    port: int,
    folder: Path,
    ca: Path | None = None,
    next_version: bool = False,
) -> Registered:
    """Register a version, complete a partly registered one, or find that it is registered.

    Args:
        registration: The version.
        address: ``http://`` or ``https://`` address of the server.
        port: Its port, unless `address` has one.
        folder: Holds the child's request, result and log.
        ca: PEM of the authority that signed the server's certificate; None = the system's.
        next_version: Whether to increase the label if another checkpoint has it.

    Raises:
        StageError: The version exists with another checkpoint, the server refused or can't be reached.
    """
    result = run_module(
        __name__,
        {
            "registration": asdict(registration),
            "port": port,
            "ca": ca and str(ca),
            "next_version": next_version,
        },
        folder=folder,
        what="registering with Kubeflow",
        env={_ADDRESS: address.rstrip("/")},  # not in the request, which is kept in a file: it may hold a password
    )
    return Registered(**result)


def models(name: str | None, *, address: str, port: int, folder: Path, ca: Path | None = None) -> list[ListedModel]:
    """Return every registered version.

    Args:
        name: Name of the registered model; None = all.
        address: As in `register`, like the others.

    Raises:
        StageError: The server refused or can't be reached.
    """
    request = {"list": name, "port": port, "ca": ca and str(ca)}
    what, env = "asking the model registry", {_ADDRESS: address.rstrip("/")}
    return [ListedModel(**m) for m in run_module(__name__, request, folder=folder, what=what, env=env)["models"]]


def _handle(request: dict[str, Any]) -> dict[str, Any]:
    import aiohttp
    from model_registry.exceptions import StoreError
    from mr_openapi import exceptions as api

    address = os.environ[_ADDRESS]
    try:
        return retry(lambda: _answer(request, address), _RETRY, on=_may_pass, pause_of=_asked_seconds)
    except (api.UnauthorizedException, api.ForbiddenException) as error:
        message = f"the model registry at {address} refused the token (HTTP {error.status})"
        raise StageError(message, fix=f"set {TOKEN} to a token for that server; {_RETRY_HINT}") from error
    except api.ApiException as error:
        answer = getattr(error.data, "message", None) or error.reason
        message = f"the model registry at {address} answered HTTP {error.status}: {answer}"
        raise StageError(message, fix=f"{_FIXES.get(error.status or 0, '')}{_RETRY_HINT}") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        message = f"the model registry at {address} can't be reached: {str(error) or type(error).__name__}"
        fix = "check registry.address and registry.port"
        if isinstance(error, aiohttp.ClientSSLError):
            fix = "set registry.ca to the certificate of the authority that signed the server's, if you trust that"
        raise StageError(message, fix=f"{fix}; {_RETRY_HINT}") from error
    except StoreError as error:
        message = f"the model registry at {address}: {str(error) or type(error).__name__}"
        raise StageError(message, fix=_RETRY_HINT) from error


def _may_pass(error: BaseException) -> bool:
    """Return whether the next attempt may succeed; each reads first what the registry has."""
    import aiohttp
    from model_registry import exceptions
    from mr_openapi import exceptions as api

    if isinstance(error, api.ApiException):
        # A conflict: somebody else has added it after we read.
        return error.status in {408, 409, 425, 429} or (error.status or 0) >= 500
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.InvalidURL):
        return False
    temporary = (exceptions.ServerError, exceptions.DuplicateError, aiohttp.ClientError, TimeoutError)
    return isinstance(error, temporary)


def _asked_seconds(error: BaseException) -> float:
    headers = getattr(error, "headers", None) or {}
    return retry_after_seconds(headers.get("Retry-After", ""))


def _answer(request: dict[str, Any], address: str) -> dict[str, Any]:
    if "list" in request:
        client = _connect(address, request["port"], "sft", request["ca"])
        return {"models": list(_listed(client, request["list"]))}
    registration = Registration(**request["registration"])
    client = _connect(address, request["port"], registration.author, request["ca"])
    return asdict(_register(client, registration, next_version=request["next_version"]))


def _connect(address: str, port: int, author: str, ca: str | None) -> ModelRegistry:
    from model_registry import ModelRegistry
    from mr_openapi.exceptions import NotFoundException

    is_secure, token = address.startswith("https://"), _token()
    if is_secure and not token:
        raise StageError(f"the model registry at {address} needs a token", fix=f"set {TOKEN}")
    try:
        return ModelRegistry(address, port, author=author, is_secure=is_secure, user_token=token, custom_ca=ca)
    except NotFoundException as error:
        raise StageError(
            f"{address} has no model registry at {error.reason or 'the path asked for'}",
            fix="model-registry 0.3.12 and 0.3.15 up speak to servers with /api/model_registry/v1; for a server with "
            "/api/model_registry/v1alpha3 install model-registry==0.3.14, or update the server",
        ) from error


def _token() -> str | None:
    """Return the bearer token, stripped: a newline at the end of a token file makes an invalid header."""
    if token := os.environ.get(TOKEN):
        return token.strip()
    if _TOKEN_FILE not in os.environ and not Path(_POD_TOKEN_FILE).exists():
        return None
    file = Path(os.environ.get(_TOKEN_FILE, _POD_TOKEN_FILE))
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StageError(f"the token file {file} can't be read: {error.strerror}", fix=f"set {TOKEN}") from error


def _register(client: ModelRegistry, registration: Registration, *, next_version: bool) -> Registered:
    name, label = registration.name, registration.version
    version = client.get_model_version(name, label) if client.get_registered_model(name) else None
    while next_version and version and (version.custom_properties or {}).get(DIGEST_KEY) != registration.digest:
        label = _increase(label)
        version = client.get_model_version(name, label)
    registration = replace(registration, version=label, facts=registration.facts | {"version": label})
    facts = {key: _number(value) for key, value in (registration.facts | registration.scores).items()}
    if version is None:
        client.register_model(
            name,
            registration.uri,
            version=label,
            author=registration.author,
            owner=registration.author,
            version_description=registration.description or None,
            metadata=facts,
            **_artifact(registration),
        )
        return Registered(version=label, note=f"registered {name} version {label}", facts=facts)
    return _complete(client, version, registration)


def _complete(client: ModelRegistry, version: ModelVersion, registration: Registration) -> Registered:
    """Add what a version of this checkpoint lacks, and update its scores and its uri."""
    name, label = registration.name, registration.version
    facts: dict[str, Fact] = dict(version.custom_properties or {})
    if facts.get(DIGEST_KEY) != registration.digest:
        raise StageError(
            f"registry.model_version={label}: {name} already has that version, of another checkpoint "
            f"({facts.get(DIGEST_KEY, 'not registered by sft')}; this one is {registration.digest})",
            fix="choose a new registry.model_version, or registry.on_conflict=next_version",
        )
    note = f"{name} version {label} is the same checkpoint already"
    artifact = client.get_model_artifact(name, label)
    if artifact is None:
        # Private, and the only way to add what `register_model` left out (model_registry/_client.py:231@0.3.18).
        add = client._register_model_artifact(version, name, registration.uri, **_artifact(registration))
        client.async_runner(add)
        note = f"completed {name} version {label}, which was partly registered"
    elif artifact.uri != registration.uri:
        artifact.uri = registration.uri
        client.update(artifact)
        note += f"; its uri is now {registration.uri}"
    outdated = {key: value for key, value in registration.scores.items() if facts.get(key) != value}
    moved: dict[str, Fact] = {"uri": registration.uri} if facts.get("uri") != registration.uri else {}
    if outdated or moved:
        facts |= outdated | moved
        version.custom_properties = facts
        client.update(version)
        note += "; its scores were updated" if outdated else ""
    return Registered(version=label, note=note, facts=facts)


def _listed(client: ModelRegistry, name: str | None) -> Iterator[dict[str, Any]]:
    names = [model.name for model in client.get_registered_models() if name in {None, model.name}]
    for model in names:
        for version in client.get_model_versions(model):
            artifact = client.get_model_artifact(model, version.name)
            yield asdict(
                ListedModel(
                    name=model,
                    version=version.name,
                    aliases=(),
                    uri=(artifact.uri if artifact else None) or "",
                    registered_at=int(version.create_time_since_epoch or 0),
                    facts=dict(version.custom_properties or {}),
                )
            )


def _increase(label: str) -> str:
    """Return a label with its last number increased by one, or with ``-2`` if it has no number."""
    numbers = list(re.finditer(r"\d+", label))
    if not numbers:
        return f"{label}-2"
    last = numbers[-1]
    return f"{label[: last.start()]}{int(last[0]) + 1}{label[last.end() :]}"


def _artifact(registration: Registration) -> dict[str, str]:
    return {
        "model_format_name": registration.format_name,
        "model_format_version": registration.format_version,
        **registration.origin,
    }


def _number(value: Fact) -> Fact:
    return float(value) if isinstance(value, int) and abs(value) > _LARGEST_INT else value


if __name__ == "__main__":
    child.main(_handle)
