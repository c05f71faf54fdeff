"""What contributors are told: its make targets, files and Python versions are there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft import __version__

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
GUIDES = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "docs/releasing.md", "constraints-lowest.txt")]
GUIDES += [ROOT / ".ci" / "run", WORKFLOW, *ROOT.glob(".github/*.md"), *ROOT.glob(".github/ISSUE_TEMPLATE/*")]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def jobs() -> list[dict[str, Any]]:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    [job] = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": "make ${{ matrix.target }} HASHED=${{ matrix.hashed }}"}
    found: list[dict[str, Any]] = job["strategy"]["matrix"]["include"]
    return found


def test_there_are_guides_and_targets() -> None:
    assert len(GUIDES) >= 9
    assert len(TARGETS) >= 10


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_make_targets_and_files_that_a_guide_names_exist(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    commands = re.findall(r"(?:^|`|: )make ((?:[a-z-]+ ?)+)", text, re.MULTILINE)
    assert {target for command in commands for target in command.split()} <= TARGETS
    files = re.findall(r"`((?:sft|tests|docs|conf|recipes|deploy|benchmarks|\.ci|\.github)/[\w./-]*)`", text)
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [name for name in files + links if not ((guide.parent / name).exists() or (ROOT / name).exists())] == []


def test_the_workflow_calls_targets_with_every_python_that_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {name.rpartition(" ")[2] for name in project["classifiers"] if ":: Python :: 3." in name}
    assert {job["target"] for job in jobs()} <= TARGETS
    assert {job["python"] for job in jobs()} == declared
    assert project["requires-python"] == f">={min(declared, key=lambda version: int(version.partition('.')[2]))}"


def test_every_mention_of_the_image_has_this_version() -> None:
    files = [ROOT / "Containerfile", *ROOT.glob("deploy/**/*.yaml"), *ROOT.glob("docs/*.md")]
    mentions = [
        (str(path.relative_to(ROOT)), tag)
        for path in files
        for tag in re.findall(r"(?:\bsft:|newTag: )(\d[\w.]*\d)", path.read_text(encoding="utf-8"))
    ]
    assert {name.partition("/")[0] for name, _ in mentions} == {"Containerfile", "deploy", "docs"}
    assert [mention for mention in mentions if mention[1] != __version__] == []
