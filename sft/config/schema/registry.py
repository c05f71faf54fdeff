"""Settings of the `registry` group."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class RegistryKind(Enum):
    """Where the result is registered."""

    none = "none"
    mlflow = "mlflow"
    kubeflow = "kubeflow"


class OnConflict(Enum):
    """What becomes of a version label that another model has already."""

    error = "error"
    next_version = "next_version"


@dataclass(kw_only=True)
class RegistryConfig:
    """Registration of the tuned model with its provenance."""

    kind: RegistryKind = RegistryKind.none
    address: str = ""
    """Kubeflow: server address with scheme, empty = skip. MLflow: tracking URI, empty = SQLite in the run root."""
    port: int = 8080
    """Port of the Kubeflow server."""
    uri: str | None = None
    """Kubeflow: where the model's folder will be served from, when something carries it there; null = where it is."""
    upload: str | None = None
    """Where the model's folder goes before it is registered, also where nothing is: `s3://bucket/prefix`,
    `oci://host[:port]/repository[:tag]`, `hf://org/name`; null = nowhere. What is registered is the place there."""
    pvc: str | None = None
    """`claim:/mount/path` of the volume that holds `run_root`: a model there is registered as `pvc://claim/…`, which
    other pods understand; null = that of a TrainJob, else the path on this machine."""
    ca: str | None = None
    """PEM file of the authority that signed the certificate of a Kubeflow server with `https://`."""
    author: str = "pipeline"
    model_name: str = "sft-model"
    model_version: str = "1.0.0"
    """Version label. MLflow numbers its versions itself and carries this one as a tag."""
    on_conflict: OnConflict = OnConflict.error
    """Kubeflow: when another model has `model_version`, refuse, or count its last number up to a free one."""
    description: str = ""
    model_format_name: str = "pytorch"
    model_format_version: str = "1.0"
    source_kind: str = "sft"
    """Kubeflow: what made the model, the client's `model_source_kind`; likewise the next four."""
    source_class: str = "run"
    source_group: str | None = None
    """Null = this machine's name."""
    source_id: str | None = None
    """Null = the run's name."""
    source_name: str | None = None
    """Null = `model_name`."""
    storage_key: str | None = None
    """Kubeflow: name of the secret that opens the model's storage; null = not said."""
    storage_path: str | None = None
    """Kubeflow: the model's path within that storage; null = not said."""
    sign: bool | str = False
    """Sign the model's folder (OpenSSF model signing): path of an elliptic curve private key (PEM), true for the one
    that `SFT_SIGNING_KEY_FILE` names, or `sigstore` for a signature without a key; also where nothing is registered.
    Needs the extra `signing`."""
    sbom: bool = False
    """Put a bill of materials (CycloneDX) of model, data and libraries beside the model. Needs the extra `sbom`."""
