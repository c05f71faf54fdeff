"""Settings of the `registry` group."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sft.config.schema.bounds import each, number, setting
from sft.config.schema.rules import Text
from sft.config.schema.texts import LINE, PATH, PATH_OR_EMPTY, no_longer_than

_DESCRIPTION = Text(no_longer_than(5_000))  # as much as MLflow keeps (store/model_registry/dbmodels/models.py@3.17.2)


class RegistryKind(Enum):
    """Where the result is registered."""

    none = "none"
    mlflow = "mlflow"
    kubeflow = "kubeflow"


PIPELINE_RUN = ("kfp", "pipelinerun")
"""Kind and class of a source that is a run in Kubeflow Pipelines, as the registry's page knows it."""


class OnConflict(Enum):
    """What becomes of a version label that another model has already."""

    error = "error"
    next_version = "next_version"
    adopt = "adopt"


@dataclass(kw_only=True)
class RegistryConfig:
    """Registration of the tuned model with its provenance."""

    kind: RegistryKind = RegistryKind.none
    address: str = setting("", PATH_OR_EMPTY)
    """Kubeflow: server address with scheme, empty = skip. MLflow: tracking URI, empty = SQLite in the run root."""
    port: int | None = number(None, at_least=1, at_most=65_535)
    """Port of the Kubeflow server; null = that of `address`, else 8080 with http:// and 443 with https://."""
    uri: str | None = setting(None, PATH)
    """Kubeflow: where the model's folder will be served from, when something carries it there; null = where it is."""
    upload: str | None = setting(None, PATH)
    """Where the model's folder goes before it is registered, also where nothing is: `s3://bucket/prefix`,
    `oci://host[:port]/repository[:tag]`, `hf://org/name`; null = nowhere. What is registered is the place there."""
    pvc: str | None = setting(None, PATH)
    """`claim:/mount/path` of the volume that holds `run_root`: a model there is registered as `pvc://claim/…`, which
    other pods understand; null = that of a TrainJob, else the path on this machine."""
    ca: str | None = setting(None, PATH)
    """PEM file of the authority that signed the certificate of a Kubeflow server with `https://`."""
    author: str = setting("pipeline", LINE)
    model_name: str = setting("sft-model", LINE)
    model_version: str = setting("1.0.0", LINE)
    """Version label. MLflow numbers its versions itself and carries this one as a tag."""
    on_conflict: OnConflict = OnConflict.error
    """Kubeflow: when another model has `model_version`, refuse, or count its last number up to a free one; `adopt`
    fills a version that somebody has made by hand, which names no checkpoint."""
    description: str = setting("", _DESCRIPTION)
    labels: list[str] = each(LINE)
    """Kubeflow: words by which the version is found on the registry's page."""
    license: str | None = setting(None, LINE)
    """Licence of the tuned model as the hub names it (`apache-2.0`), for card and registry; null = not said."""
    model_format_name: str = setting("pytorch", LINE)
    model_format_version: str = setting("1.0", LINE)
    source_kind: str = setting("sft", LINE)
    """Kubeflow: what made the model, the client's `model_source_kind`; likewise the next four."""
    source_class: str = setting("run", LINE)
    source_group: str | None = setting(None, LINE)
    """Null = this machine's name."""
    source_id: str | None = setting(None, LINE)
    """Null = the run's name."""
    source_name: str | None = setting(None, LINE)
    """Null = `model_name`."""
    storage_key: str | None = setting(None, LINE)
    """Kubeflow: name of the secret that opens the model's storage; null = not said."""
    storage_path: str | None = setting(None, PATH)
    """Kubeflow: the model's path within that storage; null = not said."""
    sign: bool | str = setting(False, PATH)
    """Sign the model's folder (OpenSSF model signing): path of an elliptic curve private key (PEM), true for the one
    that `SFT_SIGNING_KEY_FILE` names, or `sigstore` for a signature without a key; also where nothing is registered.
    Needs the extra `signing`."""
    sbom: bool = False
    """Put a bill of materials (CycloneDX) of model, data and libraries beside the model. Needs the extra `sbom`."""
