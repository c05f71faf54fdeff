"""Owns where a base model that is no folder comes from: the hub, or with ``oci://`` a registry of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sft.adapters import hub, oci_model


def is_oci(name: str) -> bool:
    """Return whether a name is an address in a registry of images."""
    return name.startswith(oci_model.SCHEME)


def cached(name: str, revision: str | None) -> Path:
    """Return the folder in which a downloaded model is; it may not exist."""
    return oci_model.cached(name) if is_oci(name) else hub.cached_model(name, revision)


def version(name: str, revision: str | None) -> str:
    """Return the commit or the digest that a model has now.

    Raises:
        SftError: There is no such model, or it can't be reached.
    """
    return oci_model.digest_of(name) if is_oci(name) else hub.commit_of(name, revision, kind="model")


def fetch(name: str, revision: str | None, update: Callable[[str], None]) -> tuple[Path, str]:
    """Download what is missing of a model, and return its folder and its commit or digest.

    Raises:
        SftError: It is refused, or can't be reached.
    """
    if is_oci(name):
        return oci_model.fetch(name, update)
    folder = hub.fetch_model(name, revision)
    return folder, folder.name
