"""Owns bills of materials, as CycloneDX 1.6 JSON. Only here: cyclonedx-python-lib."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from sft.errors import StageError

NAME = "sbom.cdx.json"


@dataclass(frozen=True, kw_only=True)
class Material:
    """A model or a dataset.

    Attributes:
        version: Commit or ETag; empty if it has none.
        sha256: Digest of its artifact.
    """

    name: str
    version: str
    sha256: str


def check_installed() -> None:
    """Check that the library is there before anything is trained.

    Raises:
        StageError: The extra is not installed.
    """
    if importlib.util.find_spec("cyclonedx") is None:
        raise StageError("registry.sbom needs the package cyclonedx-python-lib", fix="pip install 'sft-runner[sbom]'")


def write(folder: Path, model: Material, *, base: Material, dataset: Material, files: Mapping[str, str]) -> None:
    """Write `NAME`: the model with its files, its base model and dataset, and every library that is installed.

    Args:
        folder: Folder of the model.
        model: The fine-tuned model.
        base: The base model.
        dataset: The training data.
        files: sha256 of each of the model's files.
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    def component(kind: ComponentType, name: str, version: str, sha256: str) -> Component:
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]
        return Component(type=kind, name=name, version=version or None, hashes=hashes, bom_ref=f"{kind.value}:{name}")

    described = component(ComponentType.MACHINE_LEARNING_MODEL, model.name, model.version, model.sha256)
    for name, digest in files.items():
        described.components.add(component(ComponentType.FILE, name, "", digest))
    materials = [
        component(ComponentType.MACHINE_LEARNING_MODEL, f"base/{base.name}", base.version, base.sha256),
        component(ComponentType.DATA, dataset.name, dataset.version, dataset.sha256),
    ]
    for name, version in sorted({(package.name, package.version) for package in metadata.distributions()}):
        url = PackageURL("pypi", name=name.lower(), version=version)
        materials.append(
            Component(type=ComponentType.LIBRARY, name=name, version=version, purl=url, bom_ref=url.to_string())
        )
    bom = Bom(components=materials)
    bom.metadata.component = described
    bom.register_dependency(described, materials)
    (folder / NAME).write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n", encoding="utf-8")
