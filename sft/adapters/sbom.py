"""Owns bills of materials, as CycloneDX 1.6 JSON. Only here: cyclonedx-python-lib.

``python -m sft.adapters.sbom FILE`` writes that of this machine, as the image is built with it: every library of this
environment, and every package of Debian.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from sft import DISTRIBUTION, __version__
from sft.errors import StageError

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

NAME = "sbom.cdx.json"
_DPKG = Path("/var/lib/dpkg/status")


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
    materials += _libraries()
    bom = Bom(components=materials)
    bom.metadata.component = described
    bom.register_dependency(described, materials)
    (folder / NAME).write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n", encoding="utf-8")


def write_environment(file: Path, *, dpkg: Path = _DPKG) -> int:
    """Write what is installed here, and return how many packages that are.

    Args:
        file: The bill of materials.
        dpkg: Debian's list of what is installed (deb822(5)); without it only libraries are written.
    """
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    materials = [*_libraries(), *(_debian(dpkg) if dpkg.is_file() else ())]
    bom = Bom(components=materials)
    bom.metadata.component = Component(
        type=ComponentType.CONTAINER, name=DISTRIBUTION, version=__version__, bom_ref=f"container:{DISTRIBUTION}"
    )
    bom.register_dependency(bom.metadata.component, materials)
    file.write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n", encoding="utf-8")
    return len(materials)


def _libraries() -> Iterator[Component]:
    """Return every library that is installed."""
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    for name, version in sorted({(package.name, package.version) for package in metadata.distributions()}):
        url = PackageURL("pypi", name=name.lower(), version=version)
        yield Component(type=ComponentType.LIBRARY, name=name, version=version, purl=url, bom_ref=url.to_string())


def _debian(dpkg: Path) -> Iterator[Component]:
    """Return every package of Debian that is installed."""
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    release = platform.freedesktop_os_release()
    system, distro = release["ID"], f"{release['ID']}-{release.get('VERSION_ID', '')}".rstrip("-")
    for paragraph in dpkg.read_text(encoding="utf-8").split("\n\n"):
        facts = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if facts.get("Status", "").endswith(" installed"):
            about = {"arch": facts["Architecture"], "distro": distro}
            url = PackageURL("deb", system, facts["Package"], facts["Version"], about)
            yield Component(
                type=ComponentType.LIBRARY,
                name=facts["Package"],
                version=facts["Version"],
                purl=url,
                bom_ref=url.to_string(),
            )


if __name__ == "__main__":
    sys.stdout.write(f"{sys.argv[1]}: {write_environment(Path(sys.argv[1]))} packages\n")
