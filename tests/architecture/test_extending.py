"""The diffs in docs/extending.md are of the code as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "extending.md"


def diffs() -> Iterator[tuple[str, list[str]]]:
    """Yield the file and the lines of each diff."""
    for block in re.findall(r"```diff\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
        head, target, *lines = block.splitlines()
        assert head.removeprefix("--- a/") == target.removeprefix("+++ b/")
        yield target.removeprefix("+++ b/"), lines


@pytest.mark.parametrize(("file", "lines"), [*diffs()], ids=[file for file, _ in diffs()])
def test_what_a_diff_changes_stands_in_the_file_in_that_order(file: str, lines: list[str]) -> None:
    code = (ROOT / file).read_text(encoding="utf-8").splitlines()
    known = [line[1:] for line in lines if line[:1] in {" ", "-"} and line.strip()]
    assert known, "a diff without a line of the file says nothing about where"
    place = 0
    for line in known:
        assert line in code[place:], f"{file} has no line {line!r} there"
        place = code.index(line, place) + 1


def test_every_kind_of_part_has_its_diff() -> None:
    headings = re.findall(r"^## (.+)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(headings) == 7  # a callback is a package of its own, without a diff
    assert len({file for file, _ in diffs()}) == 15
