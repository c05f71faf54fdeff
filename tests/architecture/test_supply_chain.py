"""What others have made comes as it was when it was checked: by digest, wherever that can be said."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CONTAINERFILE = (ROOT / "Containerfile").read_text(encoding="utf-8")
LOCKS = sorted(ROOT.glob("*.lock"))
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
ACTION = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
IN_THE_IMAGE = {"kfp", "kubeflow", "sbom"}


def locked(lock: Path) -> dict[str, list[str]]:
    """Return the lines of each requirement, by `name==version`."""
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    entries = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return {entry[0]: entry[1:] for entry in entries}


def versions(lock: Path) -> dict[str, str]:
    return {canonicalize_name(name): version for name, _, version in (key.partition("==") for key in locked(lock))}


def test_there_are_locks() -> None:
    assert [lock.name for lock in LOCKS] == ["build.lock", "ci.lock", "requirements.lock"]
    assert len(locked(ROOT / "requirements.lock")) > 150


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_requirement_of_a_lock_has_one_version_and_its_digests(lock: Path) -> None:
    for name, words in locked(lock).items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[\w.]+", name), name  # no +cpu, no @ address
        assert words, name
        assert all(HASH.fullmatch(word) for word in words), name


@pytest.mark.parametrize("lock", ["requirements.lock", "ci.lock"])
def test_a_lock_has_the_versions_that_were_tested(lock: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    found = versions(ROOT / lock)
    assert {
        name: (version, tested[name]) for name, version in found.items() if tested.get(name, version) != version
    } == {}


def test_the_image_gets_everything_that_it_needs_from_the_locks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = list(project["project"]["dependencies"])
    for extra in IN_THE_IMAGE:
        needed += project["project"]["optional-dependencies"][extra]
    found = versions(ROOT / "requirements.lock")
    for requirement in map(Requirement, needed):
        assert requirement.specifier.contains(found[canonicalize_name(requirement.name)]), requirement
    [backend] = map(Requirement, project["build-system"]["requires"])
    assert backend.specifier.contains(versions(ROOT / "build.lock")[backend.name])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"^EXTRAS \?= (.+)$", makefile, re.MULTILINE)[0].split(",")) == IN_THE_IMAGE


def test_ci_installs_everything_but_torch_by_its_digest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [Requirement(text) for text in (*project["dependencies"], *extras["dev"])]
    [own] = [requirement for requirement in needed if requirement.name == project["name"]]
    needed += [Requirement(text) for extra in own.extras for text in extras[extra]]
    found = versions(ROOT / "ci.lock")
    lacking = {requirement.name for requirement in needed} - {own.name} - found.keys()
    assert {canonicalize_name(name) for name in lacking} - found.keys() == {"torch"}
    for requirement in needed:
        if version := found.get(canonicalize_name(requirement.name)):
            assert requirement.specifier.contains(version), requirement

    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    targets = jobs["test"]["strategy"]["matrix"]["include"]
    assert {each["target"] for each in targets if each.get("hashed") == "ci.lock"} == {
        "check",
        "test",
        "test-long",
        "test-exhaustive",
        "audit",
    }


def test_the_image_installs_nothing_without_a_digest() -> None:
    commands = re.findall(r"pip install ([^&]+?)(?:\s*&&|\n|$)", CONTAINERFILE.replace("\\\n", " "))
    assert len(commands) == 3
    for command in commands:
        assert "--require-hashes" in command or {"--no-index", "--no-deps"} <= set(command.split()), command


def test_the_image_has_its_bill_of_materials() -> None:
    assert "python -m sft.adapters.sbom /opt/sft/sbom.cdx.json" in CONTAINERFILE


def uses(tree: Any) -> list[str]:
    """Return every action that a workflow uses, and every image of another kind of step."""
    if isinstance(tree, dict):
        own = [tree["uses"]] if isinstance(tree.get("uses"), str) else []
        return own + [name for value in tree.values() for name in uses(value)]
    return [name for value in tree for name in uses(value)] if isinstance(tree, list) else []


def test_every_action_is_pinned_by_the_digest_of_a_commit() -> None:
    files = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
    actions = [name for file in files for name in uses(yaml.safe_load(file.read_text(encoding="utf-8")))]
    assert actions
    assert [name for name in actions if not ACTION.fullmatch(name)] == []


@pytest.mark.parametrize("unpinned", ["actions/checkout@v5", "actions/checkout", "docker://alpine:3", "a/b@main"])
def test_an_action_by_name_alone_is_noticed(unpinned: str) -> None:
    assert uses({"jobs": {"a": {"steps": [{"uses": unpinned}]}}}) == [unpinned]
    assert not ACTION.fullmatch(unpinned)


def test_a_workflow_may_read_and_nothing_else() -> None:
    for file in (ROOT / ".github" / "workflows").glob("*.y*ml"):
        assert yaml.safe_load(file.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}
