"""What is said to be installed here; a model's bill of materials is tests/unit/stages/test_package.py's."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

from sft.adapters import sbom

DPKG = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Description: shared libraries
 Package: no field: this is a text

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1.0
"""


def test_an_image_lists_its_libraries_and_debians_packages(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(DPKG)
    num_packages = sbom.write_environment(tmp_path / "bom.json", dpkg=tmp_path / "status")
    bom = json.loads((tmp_path / "bom.json").read_text())
    urls = [component["purl"] for component in bom["components"]]
    assert (bom["specVersion"], len(urls)) == ("1.6", num_packages)
    assert f"pkg:pypi/msgspec@{metadata.version('msgspec')}" in urls
    assert [url.partition("&distro=")[0] for url in urls if "pkg:deb/" in url] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64"
    ]


def test_without_debian_there_are_libraries_alone(tmp_path: Path) -> None:
    sbom.write_environment(tmp_path / "bom.json", dpkg=tmp_path / "none")
    assert "pkg:deb" not in (tmp_path / "bom.json").read_text()
