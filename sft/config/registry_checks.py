"""Rules of `registry` that go across its fields. Pure, as `sft.config.checks` is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from sft.config import upload_uri
from sft.config.schema import RegistryConfig, RegistryKind
from sft.errors import Problem
from sft.redaction import redact

_PVC = re.compile(r"[a-z0-9][-.a-z0-9]{0,252}:/.+")
_OF_KUBEFLOW = (
    *("uri", "port", "ca", "on_conflict", "labels", "model_format_name", "model_format_version"),
    *("source_kind", "source_class", "source_group", "source_id", "source_name", "storage_key", "storage_path"),
)
"""Settings that only a Kubeflow registry keeps."""

_PIPELINES_PORT = 8080
"""A parameter of the pipeline always has a value, and this is the original's."""
_LONGEST_NAME = 255 - len(f"{2**31 - 1}:")
"""Of names in a Kubeflow registry: columns of 255 characters, in which the parent's number stands before a name."""


def check_registry(cfg: RegistryConfig) -> Iterator[Problem]:
    """Yield every problem of `registry`."""
    yield from _place(cfg)
    if cfg.kind is RegistryKind.mlflow:
        yield from _mlflow(cfg)
    elif cfg.kind is RegistryKind.kubeflow and cfg.address:
        yield from _kubeflow(cfg)


def _place(cfg: RegistryConfig) -> Iterator[Problem]:
    uri, upload, pvc = cfg.uri, cfg.upload, cfg.pvc
    if upload is not None:
        try:
            upload_uri.parse(upload)
        except ValueError as error:
            yield Problem(key="registry.upload", value=redact(upload), rule=str(error))
        if uri:
            rule = "is where registry.upload has brought the model, or where something else does: not both"
            yield Problem(key="registry.uri", value=uri, rule=rule, suggestion="try registry.uri=null")
    if pvc is not None and not _PVC.fullmatch(pvc):
        suggestion = "try sft-workspace:/workspace"
        yield Problem(key="registry.pvc", value=pvc, rule="must be claim:/mount/path", suggestion=suggestion)
    if pvc and uri:
        rule = "says where the model is, and so does registry.pvc; one of them"
        yield Problem(key="registry.uri", value=uri, rule=rule)


def _mlflow(cfg: RegistryConfig) -> Iterator[Problem]:
    untouched = RegistryConfig()
    for name in _OF_KUBEFLOW:
        if (value := getattr(cfg, name)) != (default := getattr(untouched, name)):
            rule = "is for a Kubeflow registry, and this one is MLflow"
            suggestion = f"try {'null' if default is None else getattr(default, 'value', default)}"
            shown = redact(str(getattr(value, "value", value)))
            yield Problem(key=f"registry.{name}", value=shown, rule=rule, suggestion=suggestion)
    if cfg.address.startswith(("http://", "https://")) and (broken := _broken_url(cfg.address)):
        yield Problem(key="registry.address", value=redact(cfg.address), rule=broken)
    if "/" in cfg.model_name or ":" in cfg.model_name or cfg.model_name == "." or cfg.model_name.startswith(".."):
        rule = (
            "names a model in MLflow, which takes no / and no : in it, nor a name like .."  # utils/validation.py@3.17.2
        )
        yield Problem(key="registry.model_name", value=cfg.model_name, rule=rule)


def _kubeflow(cfg: RegistryConfig) -> Iterator[Problem]:
    if not cfg.address.startswith(("http://", "https://")):
        rule, suggestion = "must start with http:// or https://", f"try https://{redact(cfg.address)}"
        yield Problem(key="registry.address", value=redact(cfg.address), rule=rule, suggestion=suggestion)
    elif broken := _broken_url(cfg.address):
        yield Problem(key="registry.address", value=redact(cfg.address), rule=broken)
    elif (parts := urlsplit(cfg.address)).query or parts.fragment or "@" in parts.netloc:
        rule = "must be scheme, host, port and path alone"
        suggestion = "the token goes into the environment variable MODEL_REGISTRY_TOKEN"
        yield Problem(key="registry.address", value=redact(cfg.address), rule=rule, suggestion=suggestion)
    else:
        yield from _unread_beside(cfg)
    for name in ("model_name", "model_version"):
        if len(value := getattr(cfg, name)) > _LONGEST_NAME:
            rule = f"has {len(value)} characters, and a Kubeflow registry keeps {_LONGEST_NAME}"
            yield Problem(key=f"registry.{name}", value=value, rule=rule, suggestion="choose a shorter one")


def _broken_url(address: str) -> str | None:
    try:
        parts = urlsplit(address)
        return None if parts.hostname and parts.port != 0 else "must name a host"
    except ValueError as error:
        return f"is no address: {error}"


def _unread_beside(cfg: RegistryConfig) -> Iterator[Problem]:
    """Yield what the address makes idle."""
    parts = urlsplit(cfg.address)
    if parts.port is not None and cfg.port not in {parts.port, None, _PIPELINES_PORT}:
        rule, suggestion = f"is not read: registry.address has the port {parts.port}", "leave one of them out"
        yield Problem(key="registry.port", value=str(cfg.port), rule=rule, suggestion=suggestion)
    if cfg.ca is not None and parts.scheme == "http":
        rule, suggestion = "is for https://, and registry.address has http://", "try null"
        yield Problem(key="registry.ca", value=cfg.ca, rule=rule, suggestion=suggestion)
