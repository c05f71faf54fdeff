"""Owns uploads to an OCI registry: the manifest of CNCF's ModelPack, with each file unchanged as one layer.

The sha256 of a layer is that of its file, so the manifest repeats the record. A registry accepts a blob only if it has
the digest that was announced, so it compares every file. A layer's annotations name its file for ``oras pull`` and for
ModelPack.

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
from sft.adapters.upload import ByteCounter, Update, Upload, Uploaded, check_child, digest_mismatch, run_child
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
"""Annotation with the package's digest, which model registries get too."""

_DOCS = {"README.md", "LICENSE", "sft.json", "sbom.cdx.json", "model.sig"}


def upload(upload: Upload, *, folder: Path, update: Update) -> Uploaded:
    """Upload a model as an artifact; blobs that the registry has are not sent.

    Args:
        upload: `host` is the registry, `path` the repository.
        folder: Private folder for the child process.
        update: Shows how much was sent.

    Raises:
        StageError: The registry refuses, can't be reached, or lacks what was sent.
    """
    return run_child(__name__, upload, uri=f"oci://{upload.host}/{upload.path}", folder=folder, update=update)


def check(host: str, path: str, *, folder: Path) -> str:
    """Ask whether a model may be uploaded: a blob is begun and given up.

    Args:
        host: The registry.
        path: The repository.
        folder: Private folder for the child process.

    Returns:
        What a person should know; empty if there is nothing.

    Raises:
        StageError: The registry refuses, or can't be reached.
    """
    return check_child(__name__, host, path, uri=f"oci://{host}/{path}", folder=folder)


def config_of(upload: Upload) -> bytes:
    """Return the artifact's config: the model's name and version, and its layers."""
    layers = [f"sha256:{digest}" for digest in upload.files.values()]
    return _json(
        {
            "descriptor": {"name": upload.name, "version": upload.version},
            "config": {"format": "safetensors"},
            "modelfs": {"type": "layers", "diffIds": layers},
        }
    )


def manifest_of(upload: Upload, config: Mapping[str, Any]) -> bytes:
    """Return the manifest, which has the same bytes for the same model.

    Args:
        upload: The model.
        config: Descriptor of the artifact's config.
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
    """Return ModelPack's media type of a file."""
    if name in _DOCS:
        return _DOC
    return {".safetensors": _WEIGHTS, ".py": _CODE, ".md": _DOC}.get(PurePosixPath(name).suffix, _WEIGHTS_CONFIG)


def tag_of(version: str) -> str:
    """Return a version's label as a tag, which allows fewer characters."""
    tag = re.sub(r"[^\w.-]", "-", version, flags=re.ASCII)[:128]
    return f"v{tag[:127]}" if not tag or tag[0] in ".-" else tag


def _handle(request: dict[str, Any]) -> Mapping[str, Any]:
    from sft.adapters.upload import oci_client

    model, folder = Upload(**request["upload"]), Path(request["folder"])
    repository, counter = oci_client.Repository(model.host, model.path), ByteCounter(folder)
    if request.get("is_check"):
        repository.check_push()
        return {"note": ""}
    new = [name for name in model.files if not repository.has(f"sha256:{model.files[name]}", model.size(name))]
    for name in new:
        _push(repository, model, name, counter)
    content = config_of(model)
    config = oci_client.digest_of(content)
    if not repository.has(config, len(content)):
        (folder / "config.json").write_bytes(content)
        repository.push(folder / "config.json", config, counter.add)
    manifest = manifest_of(model, {"mediaType": _CONFIG_TYPE, "digest": config, "size": len(content)})
    # Two tags: registries remove a manifest whose only tag was moved to another model.
    for tag in (model.short_digest, model.tag or tag_of(model.version)):
        repository.tag(manifest, tag)
    digest = oci_client.digest_of(manifest)
    _compare(repository, model, manifest, digest)
    uri = f"oci://{model.host}/{model.path}@{digest}"
    note = f"uploaded {len(new)} of {len(model.files)} files to {uri}" if new else f"{uri} has the same files already"
    return asdict(Uploaded(uri=uri, note=note))


def _push(repository: Repository, model: Upload, name: str, counter: ByteCounter) -> None:
    try:
        repository.push(model.file(name), f"sha256:{model.files[name]}", counter.add)
    except StageError as error:
        if "DIGEST_INVALID" in error.message:
            raise digest_mismatch(model, name, "another one, says the registry") from error
        raise


def _compare(repository: Repository, model: Upload, manifest: bytes, digest: str) -> None:
    """Check that the registry has everything that the manifest names.

    Raises:
        StageError: Something is missing.
    """
    if (stored := repository.manifest(digest)) != manifest:
        raise StageError(f"the registry {model.host} has another manifest under {digest}: {len(stored)} bytes")
    for name, sha256 in model.files.items():
        if not repository.has(f"sha256:{sha256}", model.size(name)):
            raise digest_mismatch(model, name, "unknown: the registry has no such blob of this size")


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


if __name__ == "__main__":
    child.main(_handle)
