"""A model as an OCI artifact: its manifest repeats the record."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from sft.adapters.upload import Upload, oci
from sft.artifacts import hash_files
from tests.support.uploading import package


@pytest.fixture
def model(tmp_path: Path) -> Upload:
    folder = package(tmp_path).model_dir
    digests = hash_files(folder)
    return Upload(
        host="host",
        path="org/speller",
        tag=None,
        folder=str(folder),
        files=digests,
        digest="d" * 64,
        name="speller",
        version="1.0",
    )


def test_a_layer_is_a_file_with_its_recorded_digest_and_its_name_for_both_kinds_of_clients(model: Upload) -> None:
    manifest = json.loads(oci.manifest_of(model, {}))
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    layers = {layer["annotations"]["org.opencontainers.image.title"]: layer for layer in manifest["layers"]}
    assert {name: layer["digest"] for name, layer in layers.items()} == {
        name: f"sha256:{digest}" for name, digest in model.files.items()
    }
    assert all(layer["annotations"]["org.cncf.model.filepath"] == name for name, layer in layers.items())
    assert {name: layer["size"] for name, layer in layers.items()} == {name: model.size(name) for name in layers}
    assert {name: layer["mediaType"].removeprefix("application/vnd.cncf.model.") for name, layer in layers.items()} == {
        "README.md": "doc.v1.raw",
        "adapter/adapter_config.json": "weight.config.v1.raw",
        "config.json": "weight.config.v1.raw",
        "empty.txt": "weight.config.v1.raw",
        "model.safetensors": "weight.v1.raw",
        "sft.json": "doc.v1.raw",
    }
    assert manifest["annotations"]["package.digest"] == "d" * 64


def test_the_config_names_the_model_and_its_layers_in_order(model: Upload) -> None:
    config = json.loads(oci.config_of(model))
    assert config["descriptor"] == {"name": "speller", "version": "1.0"}
    assert config["modelfs"] == {"type": "layers", "diffIds": [f"sha256:{digest}" for digest in model.files.values()]}


def test_the_same_model_has_the_same_bytes(model: Upload) -> None:
    assert oci.manifest_of(model, {}) == oci.manifest_of(model, {})
    assert hashlib.sha256(oci.config_of(model)).digest() == hashlib.sha256(oci.config_of(model)).digest()


@pytest.mark.parametrize(
    ("version", "tag"),
    [("1.0.0", "1.0.0"), ("1.0+cu12", "1.0-cu12"), ("-rc", "v-rc"), ("", "v"), ("x" * 200, "x" * 128), ("Ä1", "-1")],
)
def test_a_label_becomes_a_tag(version: str, tag: str) -> None:
    assert oci.tag_of(version).removeprefix("v") == tag.removeprefix("v")
