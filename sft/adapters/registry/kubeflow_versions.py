"""Owns what is registered as what in a Kubeflow Model Registry: one registered model, one version, one model artifact.

The three are separate requests, and nothing cleans up between them. So `register` first reads what the registry has and
adds only what is missing; it may be repeated after any failure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

from sft.adapters.registry import DIGEST_KEY, ListedModel, Registered, Registration
from sft.adapters.registry.kubeflow_api import Conflict, RegistryApi, Row
from sft.adapters.registry.kubeflow_facts import facts_of, properties
from sft.errors import StageError

_ARTIFACT, _ARCHIVED = "model-artifact", "ARCHIVED"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # as the upload reads them, through botocore
_SOURCES = {
    **{f"model_source_{part}": f"modelSource{part.title()}" for part in ("kind", "class", "group", "id", "name")},
    **{"storage_key": "storageKey", "storage_path": "storagePath"},
}


def register(api: RegistryApi, registration: Registration, *, next_version: bool, adopt: bool) -> Registered:
    """Register a version, complete a partly registered one, or find that it is registered.

    Args:
        api: The registry.
        registration: The version.
        next_version: Whether to increase the label if another checkpoint has it.
        adopt: Whether to fill a version that has the label and names no checkpoint.

    Raises:
        StageError: The version exists with another checkpoint or is archived, or the server refused.
    """
    name, label = registration.name, registration.version
    model = api.find("registered_models", name)
    version = _version(api, model, label)
    while next_version and version and facts_of(_kept(version)).get(DIGEST_KEY) != registration.digest:
        label = _increase(label)
        version = _version(api, model, label)
    _refuse_archived(api, name, label, model, version)
    registration = replace(registration, version=label, uri=_place(registration.uri))
    facts = _facts(registration)
    if version:
        return _complete(api, version, registration, adopt=adopt)
    if model is None:
        new_model = {"name": name, "owner": registration.author, "state": "LIVE"}
        model = _create(api, "registered_models", new_model, among="registered_models")
        if model["name"] != name:
            raise StageError(f"the model registry at {api.address} has kept {name} under the name {model['name']}")
    new_version = {
        **{"name": label, "registeredModelId": model["id"], "author": registration.author, "state": "LIVE"},
        **({"description": registration.description} if registration.description else {}),
        "customProperties": properties(facts, registration.labels, {}),
    }
    version = _create(api, "model_versions", new_version, among=f"registered_models/{model['id']}/versions")
    api.create(f"model_versions/{version['id']}/artifacts", _artifact(registration))
    return Registered(version=label, note=f"registered {name} version {label}", uri=registration.uri, facts=facts)


def _create(api: RegistryApi, path: str, row: Row, *, among: str) -> Row:
    """Add a row that was not there.

    Args:
        api: The registry.
        path: Where it is added.
        row: What it says.
        among: Listing of those whose names it must not have.

    Raises:
        Conflict: Somebody else has added it since.
        StageError: The registry takes another name for the same, and would again.
    """
    try:
        return api.create(path, row)
    except Conflict as error:
        if alike := api.find_alike(among, row["name"]):
            raise StageError(
                f"the model registry at {api.address} takes {row['name']} for {alike}, which it has",
                fix=f"say {alike}, or a name that differs in more than case and accents",
            ) from error
        raise


def _complete(api: RegistryApi, version: Row, registration: Registration, *, adopt: bool) -> Registered:
    """Add what a version of this checkpoint lacks, and bring up to date what it says of it."""
    name, label, kept = registration.name, registration.version, _kept(version)
    before, facts = facts_of(kept), _facts(registration)
    digest = before.get(DIGEST_KEY)
    if digest != registration.digest and not (adopt and digest is None):
        also = "" if digest else ", or registry.on_conflict=adopt to fill that one"
        raise StageError(
            f"registry.model_version={label}: {name} already has that version, of another checkpoint "
            f"({digest or 'not registered by sft'}; this one is {registration.digest})",
            fix=f"choose a new registry.model_version, or registry.on_conflict=next_version{also}",
        )
    is_adopted = digest is None
    note = f"filled {name} version {label}" if is_adopted else f"{name} version {label} is the same checkpoint already"
    artifact = _own_artifact(api, version, registration)
    if artifact is None:
        api.create(f"model_versions/{version['id']}/artifacts", _artifact(registration))
        note = note if is_adopted else f"completed {name} version {label}, which was partly registered"
    elif changes := _changes(artifact, _artifact(registration)):
        api.update(f"model_artifacts/{artifact['id']}", {"artifactType": _ARTIFACT, **changes})
        note += f"; its uri is now {registration.uri}" if "uri" in changes else ""
    told: Row = {"customProperties": properties(facts, registration.labels, kept)}
    if registration.description:
        told["description"] = registration.description
    if changes := _changes(version, told):
        api.update(f"model_versions/{version['id']}", changes)
        is_rescored = any(before.get(key) != value for key, value in registration.scores.items())
        note += "; its scores were updated" if is_rescored and not is_adopted else ""
        if (run := before.get("run_id")) not in (None, registration.run_id):
            note += f"; its facts were of {run} and are of this run now"
    return Registered(version=label, note=note, uri=registration.uri, facts=facts)


def _own_artifact(api: RegistryApi, version: Row, registration: Registration) -> Row | None:
    """Return the artifact that says where the model is: the one of its name, or else the only one of a model.

    Raises:
        StageError: There are several and none has its name: which one is served can't be known.
    """
    every = [a for a in api.pages(f"model_versions/{version['id']}/artifacts") if a.get("artifactType") == _ARTIFACT]
    named = [artifact for artifact in every if artifact.get("name") == registration.name]
    if not named and len(every) > 1:
        raise StageError(
            f"{registration.name} version {registration.version} has {len(every)} model artifacts, and none is named "
            f"{registration.name}: a server of models takes the newest",
            fix="leave one of them there, or choose a new registry.model_version",
        )
    return next(iter(named or every), None)


def check(api: RegistryApi, name: str, label: str | None) -> str:
    """Return what a person should know before a model is registered under a name and a label; may be empty.

    Raises:
        StageError: Nobody would see the version: it is archived.
    """
    model = api.find("registered_models", name)
    if model is None and (alike := api.find_alike("registered_models", name)):
        return (
            f"{name} is not in the model registry, and {alike} is: on MySQL it takes both for one, and will refuse this"
        )
    version = _version(api, model, label) if label else None
    _refuse_archived(api, name, label, model, version)
    if version is None:
        return ""
    return f"{name} has a version {label} in the model registry: only the same checkpoint can be registered as that"


def has(api: RegistryApi, name: str, label: str, digest: str) -> bool:
    """Return whether a checkpoint is a version there, with the artifact that says where it is."""
    version = _version(api, api.find("registered_models", name), label)
    if version is None or facts_of(_kept(version)).get(DIGEST_KEY) != digest:
        return False
    artifacts = api.pages(f"model_versions/{version['id']}/artifacts")
    return any(artifact.get("artifactType") == _ARTIFACT and artifact.get("uri") for artifact in artifacts)


def _version(api: RegistryApi, model: Row | None, label: str) -> Row | None:
    return api.find(f"registered_models/{model['id']}/versions", label) if model else None


def _refuse_archived(api: RegistryApi, name: str, label: str | None, model: Row | None, version: Row | None) -> None:
    for row, what in ((model, name), (version, f"{name} version {label}")):
        if row and row.get("state") == _ARCHIVED:
            raise StageError(
                f"{what} is archived in the model registry at {api.address}: nobody would see what is registered there",
                fix="restore it on the registry's page, or choose another registry.model_name or model_version",
            )


def listed(api: RegistryApi, name: str | None) -> Iterator[ListedModel]:
    """Yield every version of one registered model, or of all."""
    if name is None:
        models = list(api.pages("registered_models"))
        versions = list(api.pages("model_versions"))
    else:
        model = api.find("registered_models", name)
        models = [model] if model else []
        versions = list(api.pages(f"registered_models/{model['id']}/versions")) if model else []
    names = {model["id"]: model.get("name", "") for model in models}
    archived = {model["id"] for model in models if model.get("state") == _ARCHIVED}
    known = [version for version in versions if version.get("registeredModelId") in names]
    # Where a model is, its artifact says; ours say it in a fact too, which saves a request for each.
    unknown = [version for version in known if "uri" not in facts_of(_kept(version))]
    asked = api.first_pages([f"model_versions/{version['id']}/artifacts" for version in unknown])
    places = {
        version["id"]: next((a["uri"] for a in artifacts if a.get("artifactType") == _ARTIFACT and a.get("uri")), "")
        for version, artifacts in zip(unknown, asked, strict=True)
    }
    for version in known:
        facts = facts_of(_kept(version))
        yield ListedModel(
            name=names[version["registeredModelId"]],
            version=version.get("name", ""),
            aliases=(),
            uri=str(facts.get("uri") or places[version["id"]]),
            registered_at=int(version.get("createTimeSinceEpoch") or 0),
            facts=facts,
            is_archived=version.get("state") == _ARCHIVED or version["registeredModelId"] in archived,
        )


def _kept(version: Row) -> dict[str, Any]:
    return version.get("customProperties") or {}


def _facts(registration: Registration) -> dict[str, Any]:
    """Return what the page shows of a version: few facts, and where the whole record is."""
    uri = registration.uri.partition("?")[0].rstrip("/")
    record = f"sft.json in {uri}" if uri.startswith("oci://") else f"{uri}/sft.json"
    facts = {**registration.facts, "uri": registration.uri, "record": record, **registration.scores}
    return {key: value for key, value in facts.items() if value != ""}


def _artifact(registration: Registration) -> Row:
    return {
        **{"artifactType": _ARTIFACT, "name": registration.name, "uri": registration.uri, "state": "LIVE"},
        **{"modelFormatName": registration.format_name, "modelFormatVersion": registration.format_version},
        **{_SOURCES[key]: value for key, value in registration.origin.items()},
    }


def _changes(there: Row, wanted: Row) -> Row:
    """Return what a row must be told to be as wanted; a name stays."""
    return {key: value for key, value in wanted.items() if key != "name" and there.get(key) != value}


def _place(uri: str) -> str:
    """Return a place as the registry's page and KServe read it: a bucket with its endpoint, the hub with a revision."""
    if uri.startswith("hf://"):
        return uri.replace("@", ":")
    if not uri.startswith("s3://") or "?" in uri:
        return uri
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or "us-east-1"
    endpoint = next((found for name in _ENDPOINTS if (found := os.environ.get(name))), None)
    where = {"endpoint": endpoint or f"https://s3.{region}.amazonaws.com", "defaultRegion": region}
    return f"{uri}?{urlencode(where, quote_via=quote, safe='')}"


def _increase(label: str) -> str:
    """Return a label with its last number increased by one, or with ``-2`` if it has no number."""
    numbers = list(re.finditer(r"\d+", label))
    if not numbers:
        return f"{label}-2"
    last = numbers[-1]
    return f"{label[: last.start()]}{int(last[0]) + 1}{label[last.end() :]}"
