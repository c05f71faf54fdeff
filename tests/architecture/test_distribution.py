"""What is published: the name it is installed by."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from sft import DISTRIBUTION

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

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
