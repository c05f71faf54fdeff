"""Owns which Kubernetes secrets a pod of ours gets as variables, and what a second spelling of them means.

A container has each variable once, and each secret of the original pipeline has two spellings: so the second one has a
variable of its own, which counts where the first one gives nothing.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass

OCI_PULL_SECRET = "OCI_PULL_SECRET_MODEL_DOWNLOAD"
"""Variable with the text of a Docker ``config.json``, for a base model in an OCI registry."""

AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
REGISTRY = ("MODEL_REGISTRY_TOKEN", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""What a registry behind a login asks for: Kubeflow's the first, MLflow one of the others."""
KUBERNETES = {"KUBERNETES_SERVER_URL": "server_url", "KUBERNETES_AUTH_TOKEN": "auth_token"}
"""Variable -> key of the secret ``kubernetes-credentials``, whose second spelling is the variable's name."""

_SECOND = "SFT_SECOND_"
_LOGINS = (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), tuple(KUBERNETES), (OCI_PULL_SECRET,))
"""Variables that come from one secret together: half of one and half of another is no login."""
_BESIDE = {"AWS_ACCESS_KEY_ID": ("AWS_ENDPOINT_URL",)}
"""What comes along with a login, unless it is set already."""


@dataclass(frozen=True)
class SecretKey:
    """A key of a secret that becomes a variable; both may be absent."""

    variable: str
    secret: str
    key: str


def second(variable: str) -> str:
    """Return the variable that holds the second spelling of this one."""
    return f"{_SECOND}{variable}"


def pod_secrets(
    *,
    hf: str = "hf-token",
    minio: str = "minio-secret",
    s3: str = "s3-secret",
    oci: str = "oci-pull-secret-model-download",
    registry: str = "registry-login",
) -> tuple[SecretKey, ...]:
    """Return what every pod of a run gets.

    Args:
        hf: Secret with the hub's token.
        minio: Secret with the object store's keys.
        s3: The same by the name that the original has now; counts where `minio` has none.
        oci: Secret with a Docker ``config.json``, under a key of its own or as ``kubectl create secret
            docker-registry`` has it.
        registry: Secret with what the registry asks for.
    """
    other = [SecretKey(second(name), s3, name) for name in AWS] if s3 != minio else []
    return (
        SecretKey("HF_TOKEN", hf, "HF_TOKEN"),
        *(SecretKey(name, minio, name) for name in AWS),
        *other,
        SecretKey(OCI_PULL_SECRET, oci, OCI_PULL_SECRET),
        SecretKey(second(OCI_PULL_SECRET), oci, ".dockerconfigjson"),
        *(SecretKey(name, registry, name) for name in REGISTRY),
    )


def take_second_spellings(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set each login that the environment lacks from its second spelling, if it has that one."""
    for login in _LOGINS:
        if any(environment.get(name) for name in login):
            continue
        beside = [name for first in login for name in _BESIDE.get(first, ()) if not environment.get(name)]
        for name in (*login, *beside):
            if value := environment.get(second(name)):
                environment[name] = value
