"""What is published: the name it is installed by, and what it says that it needs."""

from __future__ import annotations

import ast
import functools
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from sft import DISTRIBUTION

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = {
    extra: [Requirement(text) for text in texts]
    for extra, texts in {"core": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items()
}
"""What each extra asks for, and what everyone gets."""
NEEDS_A_GPU = {"liger-kernel"}
"""Not among the lowest versions: they come with CUDA and have been installed by none of our checks."""
PATCHED = {"accelerate", "instructlab-training", "numba", "peft", "transformers"}
"""Patched by name, or used as their sources are rather than as they are documented (docs/backend.md)."""

BARE_NAME = re.compile(
    r"(?<![\w-])sft\\?\["  # an extra of it
    r"|\binstall\b[^\n#;&|]*\s['\"]?sft(?![-\w./\[])"  # pip install sft, uv pip install --upgrade 'sft==1.0'
)
"""Whoever follows such a hint gets the other project of that name."""


def test_the_distribution_has_a_name_of_its_own() -> None:
    assert PROJECT["name"] == DISTRIBUTION != "sft"
    assert PROJECT["scripts"] == {"sft": "sft.__main__:main"}


@pytest.mark.parametrize(
    "hint",
    [
        "pip install 'sft[kfp]'",
        "`'sft[optuna]'`",
        r"pip install 'sft\[s(igning|bom)\]'",
        "pip install sft",
        "pip install -U sft==1.0",
        '  "sft[api]",',
    ],
)
def test_a_bare_name_is_recognised(hint: str) -> None:
    assert BARE_NAME.search(hint)


@pytest.mark.parametrize(
    "text", ["pip install 'sft-runner[kfp]'", "pip install sft-runner", "pip install .; sft run x", "COPY sft sft"]
)
def test_other_texts_are_left_alone(text: str) -> None:
    assert not BARE_NAME.search(text)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a repository says which files are its own")
def test_no_hint_installs_the_other_project() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name and ROOT / name != Path(__file__)]
    assert len(files) > 100
    hints = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        if path.is_file()  # one that was moved is still listed until that is committed
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if BARE_NAME.search(line)
    ]
    assert hints == []


OF_ANOTHER_ENVIRONMENT = {"sft/adapters/export/gptq_worker.py": {"llmcompressor"}}
"""What a file imports that an interpreter runs which a person names; it can't be installed beside ours."""


@functools.cache
def imports(folder: str) -> dict[str, set[str]]:
    """Modules of other people's that a folder's files import, with the files."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import():
                    names = [alias.name for alias in node.names]
                case ast.ImportFrom(module=str(module), level=0):
                    names = [module]
                case _:
                    names = []
            file = str(path.relative_to(ROOT))
            known = {*sys.stdlib_module_names, "sft", "tests", *OF_ANOTHER_ENVIRONMENT.get(file, ())}
            for name in names:
                if name.partition(".")[0] not in known:
                    found.setdefault(name, set()).add(file)
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    ("folder", "extras"), [("sft", REQUIREMENTS.keys() - {"dev"}), ("tests", REQUIREMENTS)], ids=["sft", "tests"]
)
def test_what_is_imported_is_declared(folder: str, extras: Collection[str]) -> None:
    names = {canonicalize_name(requirement.name) for extra in extras for requirement in REQUIREMENTS[extra]}
    providers = metadata.packages_distributions()
    modules = imports(folder)
    assert len(modules) > 20
    undeclared = {
        module: sorted(files)
        for module, files in modules.items()
        if not names & {canonicalize_name(name) for name in providers.get(module.partition(".")[0], [])}
    }
    assert undeclared == {}, "add the distribution to pyproject.toml"


def bounds(requirement: Requirement) -> dict[str, str]:
    return {spec.operator: spec.version for spec in requirement.specifier}


DIRECT = [
    requirement
    for requirement in itertools.chain.from_iterable(REQUIREMENTS.values())
    if requirement.name not in {DISTRIBUTION, *NEEDS_A_GPU}
]


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_a_lower_bound_is_what_the_lowest_versions_hold(requirement: Requirement) -> None:
    text = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
    pins = {canonicalize_name(name): pin for name, pin in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)}
    has = bounds(requirement)
    lowest = has.get(">=") or has.get("==")
    assert lowest, f"{requirement} has no lower bound"
    assert Version(pins[canonicalize_name(requirement.name)]) == Version(lowest), "make constraints-lowest"


def test_what_is_patched_or_leant_on_has_an_upper_bound() -> None:
    providers = metadata.packages_distributions()
    private = {module.partition(".")[0] for module in imports("sft") if re.search(r"\._", module)}
    assert private >= {"hydra", "lm_eval", "torch"}
    names = {canonicalize_name(name) for module in private for name in providers[module]}
    bounded = {canonicalize_name(r.name) for r in DIRECT if bounds(r).keys() & {"<", "=="}}
    assert names | PATCHED <= bounded
