"""A model as it is given away: its folder, where it was uploaded to, where it is registered."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sft.artifacts.base import Artifact


@dataclass(frozen=True, kw_only=True)
class ModelPackage(Artifact):
    """The model as it is given away, under ``model/``: weights and tokenizer as hard links to the checkpoint's, its
    ``adapter/`` with LoRA, the model card ``README.md``, and ``sft.json``, which holds the record of what made it.

    Attributes:
        record_digest: Digest of that record.
        signed: Whether ``model.sig`` is among the files.
    """

    record_digest: str
    signed: bool = False

    @property
    def model_dir(self) -> Path:
        return self.root / "model"


@dataclass(frozen=True, kw_only=True)
class UploadedModel(Artifact):
    """A model's folder somewhere else: ``upload.json``, with the uri and the sha256 of each file.

    Attributes:
        uri: Of these very files: what is uploaded later has another one.
        num_files: Files there.
        num_bytes: Their sum.
    """

    uri: str
    num_files: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class RegisteredModel(Artifact):
    """Where a model version was registered: ``registration.json``.

    Attributes:
        registry: ``mlflow`` or ``kubeflow``.
        address: Tracking URI or server address, without secrets.
        name: Registered model name.
        version: Version in that registry.
        uri: Where the registered files lie.
        api: Which of its APIs the registry has, where there are several.
        metadata: What the registry holds about it.
    """

    registry: str
    address: str
    name: str
    version: str
    uri: str
    api: str = ""
    metadata: dict[str, str | int | float | bool] = field(default_factory=dict)
