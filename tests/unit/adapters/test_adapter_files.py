"""What an adapter says of its base is compared with the base that it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.adapters.adapter_files import AdapterFiles, check_base
from sft.errors import StageError

OLD, NEW = "a" * 40, "b" * 40


def of(base: str, revision: str | None = None) -> AdapterFiles:
    return AdapterFiles(folder=Path("adapter"), config={"base_model_name_or_path": base, "revision": revision})


def test_another_base_is_refused() -> None:
    with pytest.raises(StageError, match="is an adapter of org/base, not of org/other"):
        check_base(of("org/base"), "org/other", "it")


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [(OLD, NEW, True), (OLD, OLD, False), (OLD, "", False), (None, NEW, False), ("main", NEW, False)],
)
def test_another_revision_of_the_base_is_said(theirs: str | None, ours: str, said: bool) -> None:
    notes = check_base(of("org/base", theirs), "org/base", "it", revision=ours)
    assert notes == ([f"it is of the revision {OLD} of org/base, and this is {NEW}"] if said else [])


def test_a_base_that_is_not_named_is_said() -> None:
    [note] = check_base(of(""), "org/base", "it")
    assert "does not say which model it is of" in note
