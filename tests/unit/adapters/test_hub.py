"""References to the hub, and which config and split are read. Fetching is tests/integration/test_hub.py's."""

from __future__ import annotations

import pytest

from sft.adapters import hub
from sft.adapters.hub import Reference
from sft.errors import DataError


@pytest.mark.parametrize(
    ("uri", "reference"),
    [
        ("hf://org/name", Reference("org/name")),
        ("org/name", Reference("org/name")),
        ("hf://org/name:main", Reference("org/name", "main")),
        ("hf://org/name@v1.0", Reference("org/name", None, "v1.0")),
        ("hf://org/name:main@refs/pr/3", Reference("org/name", "main", "refs/pr/3")),
        ("hf://datasets/org/name", Reference("org/name")),
        ("hf://org/name/file.json", None),
    ],
)
def test_a_reference_names_repository_config_and_revision(uri: str, reference: Reference | None) -> None:
    assert hub.parse(uri) == reference


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (["test", "train"], "train"),
        (["test_sft", "train_gen", "train_sft"], "train_sft"),
        (["train_gen", "test"], "train_gen"),
        (["dev", "training"], "training"),
        (["everything"], "everything"),
    ],
)
def test_the_training_split_is_read_or_the_only_one(present: list[str], chosen: str) -> None:
    assert hub.chosen("split", "org/name", None, present) == chosen


def test_a_wished_split_goes_before_the_usual_one() -> None:
    assert hub.chosen("split", "org/name", "test", ["train", "test"]) == "test"


@pytest.mark.parametrize(("what", "fix"), [("config", r"dataset\.uri=hf://org/name:a"), ("split", r"dataset\.split=a")])
def test_where_it_is_not_clear_all_are_listed_with_what_to_write(what: str, fix: str) -> None:
    with pytest.raises(DataError, match=rf"several {what}s: a, b\n  try: {fix}"):
        hub.chosen(what, "org/name", None, ["a", "b"])
    with pytest.raises(DataError, match=f"has no {what} c but a, b"):
        hub.chosen(what, "org/name", "c", ["a", "b"])
