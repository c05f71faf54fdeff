"""A release, tried into an index of its own: built, checked, installed by its name, run in an empty folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sft import DISTRIBUTION, __version__
from tests.servers.http import Resource, serving

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
CLEAN = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(command, cwd=cwd, env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The sdist, and the wheel that is built from it: the commands of `make dist`."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=ROOT)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def installed(dist: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment into which pip installed the wheel by its name."""
    venv = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", venv, cwd=venv)
    pip = (venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
    run(*pip, "torch", cwd=venv)
    files = {f"/files/{path.name}": Resource(path.read_bytes()) for path in dist}
    digests = {name: hashlib.sha256(file.content).hexdigest() for name, file in files.items()}
    links = [f'<a href="{name}#sha256={digest}">{Path(name).name}</a>' for name, digest in digests.items()]
    page = Resource("\n".join(links).encode(), content_type="text/html", tagged=False)
    with serving({f"/simple/{DISTRIBUTION}/": page, **files}) as address:
        run(*pip, "--extra-index-url", f"{address}/simple/", f"{DISTRIBUTION}=={__version__}", cwd=venv)
    assert [name for name, file in files.items() if file.num_requests] == [f"/files/{dist[0].name}"]
    return venv / "bin"


def test_an_index_takes_both_files(dist: list[Path], tmp_path: Path) -> None:
    stem = f"{DISTRIBUTION.replace('-', '_')}-{__version__}"
    assert [path.name for path in dist] == [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"]
    assert run(sys.executable, "-m", "twine", "check", "--strict", *dist, cwd=tmp_path).count("PASSED") == 2


def test_the_installed_quickstart_makes_its_model_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    run(installed / "python", "-m", "pip", "check", cwd=tmp_path)
    assert run(installed / "sft", "--version", cwd=tmp_path) == f"sft {__version__}\n"
    said = run(installed / "sft", "run", "quickstart", cwd=tmp_path)
    [score] = re.findall(r"^spell_numbers\.acc .*→ ([\d.]+) ", said, re.MULTILINE)
    assert float(score) > 0.9
    [record] = tmp_path.glob("runs/quickstart-*/run.json")
    assert json.loads(record.read_bytes())["versions"][DISTRIBUTION] == __version__

    run(installed / "sft", "recipes", "copy", "quickstart", "mine", cwd=tmp_path)
    again = run(installed / "sft", "run", "mine/quickstart.yaml", cwd=tmp_path)
    assert again.count(": done before, ") == 7, again  # all but the package and its registration, which name the recipe
