"""The upload stage: the model's folder goes to a bucket, an OCI registry or the hub, and is compared there with its
record.

Does not own how (`sft.adapters.upload`). Nothing that was uploaded is ever overwritten or taken away by a later model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from sft.adapters.upload import Upload, hub, oci, s3
from sft.artifacts import ModelPackage, UploadedModel
from sft.config.schema import RegistryConfig
from sft.config.upload_uri import Scheme, parse
from sft.progress import Progress
from sft.stages.package import FACTS

UPLOAD = "upload.json"
_PREFIX = "model/"


@dataclass(frozen=True, kw_only=True)
class UploadInputs:
    """What is uploaded.

    Attributes:
        package: The model's folder.
        files: sha256 of each of the package's files, as they were recorded.
    """

    package: ModelPackage
    files: Mapping[str, str]


def check(cfg: RegistryConfig, logs: Path) -> str:
    """Ask the destination, before anything is downloaded or trained, whether the model may be uploaded there.

    Args:
        cfg: Where to; `upload` is set.
        logs: Private folder.

    Returns:
        What a person should know; empty if there is nothing.

    Raises:
        StageError: The destination refuses, or can't be reached.
    """
    destination = parse(cfg.upload or "")
    return str(_module(destination.scheme).check(destination.host, destination.path, folder=logs))


def _module(scheme: Scheme) -> Any:
    """Return the module of a destination, which has `upload` and `check`."""
    match scheme:
        case Scheme.s3:
            return s3
        case Scheme.oci:
            return oci
        case Scheme.hf:
            return hub
        case never:
            assert_never(never)


def upload(cfg: RegistryConfig, inputs: UploadInputs, out: Path, progress: Progress) -> UploadedModel:
    """Upload the model's folder and write ``upload.json``; what is there already is not sent.

    Args:
        cfg: Where to; `upload` is set, or there is no stage. Name and version of the model.
        inputs: The folder.
        out: Private staging folder; what a killed try has left in it is gone on with.
        progress: Told how far it is.

    Raises:
        StageError: The destination refuses, can't be reached, or something else has arrived there.
    """
    if cfg.upload is None:
        raise ValueError("registry.upload=null uploads nothing")
    destination = parse(cfg.upload)
    names = sorted((name.removeprefix(_PREFIX) for name in inputs.files), key=lambda name: (name == FACTS, name))
    model = Upload(
        host=destination.host,
        path=destination.path,
        tag=destination.tag,
        folder=str(inputs.package.model_dir),
        files={name: inputs.files[_PREFIX + name] for name in names},
        digest=inputs.package.digest,
        name=cfg.model_name,
        version=cfg.model_version,
    )
    folder = out / "logs" / "upload"
    done = _module(destination.scheme).upload(model, folder=folder, update=progress.update)
    progress.say(f"  {done.note}")
    told = {"uri": done.uri, "files": model.files}
    (out / UPLOAD).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return UploadedModel(root=out, uri=done.uri, num_files=len(names), num_bytes=sum(map(model.size, names)))
