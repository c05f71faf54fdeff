"""Owns a model as an OCI artifact: the manifest of CNCF's ModelPack, with each file as a layer as it is.

The sha256 of a layer is that of its file, so the manifest repeats the record, and the registry, which takes a blob only
with the bytes of its digest, does the comparing. Each layer carries its name as ``oras pull`` and as ModelPack read it.

The format: https://github.com/modelpack/model-spec, docs/spec.md and docs/config.md, with its ``raw`` media types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sft.adapters.os import child
from sft.adapters.upload import Sent, Told, Upload, Uploaded, other_content, run
from sft.errors import StageError

if TYPE_CHECKING:
    from sft.adapters.upload.oci_client import Repository

_TYPE = "application/vnd.cncf.model.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
_WEIGHTS = "application/vnd.cncf.model.weight.v1.raw"
_WEIGHTS_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
_DOC = "application/vnd.cncf.model.doc.v1.raw"
_CODE = "application/vnd.cncf.model.code.v1.raw"
_TITLE = "org.opencontainers.image.title"
_VERSION = "org.opencontainers.image.version"
_FILEPATH = "org.cncf.model.filepath"
DIGEST_KEY = "package.digest"
"""Annotation with the digest that our registries hold too."""

_DOCS = {"README.md", "LICENSE", "sft.json", "sbom.cdx.json", "model.sig"}


def upload(upload: Upload, *, folder: Path, told: Told) -> Uploaded:
    """Uploads a model as an artifact; blobs that the registry has are not sent.

    Args:
        upload: `host` is the registry, `path` the repository.
        folder: Private.
        told: Told how far it is.

    Raises:
        StageError: The registry refuses, can't be reached, or lacks what was sent.
    """
    return run(__name__, upload, uri=f"oci://{upload.host}/{upload.path}", folder=folder, told=told)


def config_of(upload: Upload) -> bytes:
    """The artifact's config: what the model is called, and its layers once more."""
    layers = [f"sha256:{digest}" for digest in upload.files.values()]
    return _json(
        {
            "descriptor": {"name": upload.name, "version": upload.version},
            "config": {"format": "safetensors"},
            "modelfs": {"type": "layers", "diffIds": layers},
        }
    )


def manifest_of(upload: Upload, config: Mapping[str, Any]) -> bytes:
    """The manifest: the same bytes for the same model.

    Args:
        upload: The model.
        config: Descriptor of its config.
    """
    layers = [
        {
            "mediaType": media_type(name),
            "digest": f"sha256:{digest}",
            "size": upload.size(name),
            "annotations": {_TITLE: name, _FILEPATH: name},
        }
        for name, digest in upload.files.items()
    ]
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": _TYPE,
            "config": config,
            "layers": layers,
            "annotations": {_TITLE: upload.name, _VERSION: upload.version, DIGEST_KEY: upload.digest},
        }
    )


def media_type(name: str) -> str:
    """What a file is to ModelPack."""
    if name in _DOCS:
        return _DOC
    return {".safetensors": _WEIGHTS, ".py": _CODE, ".md": _DOC}.get(PurePosixPath(name).suffix, _WEIGHTS_CONFIG)


def tag_of(version: str) -> str:
    """A version's label as a tag, in which fewer characters may be."""
    tag = re.sub(r"[^\w.-]", "-", version, flags=re.ASCII)[:128]
    return f"v{tag[:127]}" if not tag or tag[0] in ".-" else tag


def _handle(request: dict[str, Any]) -> Mapping[str, Any]:
    from sft.adapters.upload import oci_client

    model, folder = Upload(**request["upload"]), Path(request["folder"])
    repository, sent = oci_client.Repository(model.host, model.path), Sent(folder)
    new = [name for name in model.files if not repository.has(f"sha256:{model.files[name]}", model.size(name))]
    for name in new:
        _push(repository, model, name, sent)
    content = config_of(model)
    config = oci_client.digest_of(content)
    if not repository.has(config, len(content)):
        (folder / "config.json").write_bytes(content)
        repository.push(folder / "config.json", config, sent.add)
    manifest = manifest_of(model, {"mediaType": _CONFIG_TYPE, "digest": config, "size": len(content)})
    # A tag of its own, too: registries clear manifests away that another model has taken the only tag of.
    for tag in (model.short_digest, model.tag or tag_of(model.version)):
        repository.tag(manifest, tag)
    digest = oci_client.digest_of(manifest)
    _compare(repository, model, manifest, digest)
    uri = f"oci://{model.host}/{model.path}@{digest}"
    note = (
        f"uploaded {len(new)} of {len(model.files)} files to {uri}" if new else f"the same files are at {uri} already"
    )
    return asdict(Uploaded(uri=uri, note=note))


def _push(repository: Repository, model: Upload, name: str, sent: Sent) -> None:
    try:
        repository.push(model.file(name), f"sha256:{model.files[name]}", sent.add)
    except StageError as error:
        if "DIGEST_INVALID" in error.message:
            raise other_content(model, name, "another one, says the registry") from error
        raise


def _compare(repository: Repository, model: Upload, manifest: bytes, digest: str) -> None:
    """Asks for all that the manifest names.

    Raises:
        StageError: Something is not there.
    """
    if (there := repository.manifest(digest)) != manifest:
        raise StageError(f"the registry {model.host} has another manifest under {digest}: {len(there)} bytes")
    for name, sha256 in model.files.items():
        if not repository.has(f"sha256:{sha256}", model.size(name)):
            raise other_content(model, name, "unknown: the registry has no such blob of this size")


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


if __name__ == "__main__":
    child.main(_handle)
