"""`sft models`: a version in lines."""

from __future__ import annotations

import pytest

from sft.adapters.registry import Fact, ListedModel
from sft.cli.models import _lines, execute
from sft.errors import ConfigError


def lines(facts: dict[str, Fact], *, is_archived: bool = False) -> list[str]:
    model = ListedModel(
        name="m", version="1", aliases=(), uri="s3://b/m", registered_at=0, facts=facts, is_archived=is_archived
    )
    return list(_lines(model))


def test_scores_are_shown_before_and_after_whether_numbers_or_texts() -> None:
    numbers: dict[str, Fact] = {"base.acc": 0.25, "tuned.acc": 0.5, "tuned.acc_stderr": 0.01, "verdict.acc": "better"}
    texts: dict[str, Fact] = {key: str(value) for key, value in numbers.items()}
    assert lines(numbers) == lines(texts)
    assert lines(numbers)[-1].split() == ["acc", "0.2500", "→", "0.5000", "±", "0.0100", "better"]


def test_what_somebody_else_has_put_in_the_place_of_a_score_ends_nothing() -> None:
    shown = lines({"base.acc": "none", "tuned.acc": "good", "tuned.acc_stderr": "?"})
    assert shown[-1].split() == ["acc", "none", "→", "good"]


def test_a_version_that_the_page_hides_is_said_to_be_archived() -> None:
    assert lines({}, is_archived=True)[0].endswith("  archived")
    assert not lines({})[0].endswith("archived")


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("registry.model_name=speller", "--name MODEL lists one model's versions"),
        ("+training.seed=1", "leave it out"),
    ],
)
def test_a_setting_that_says_nothing_of_the_registry_is_refused(override: str, fix: str) -> None:
    with pytest.raises(ConfigError) as refused:
        execute(None, ["run_root=runs", override], json=False)
    key = override.lstrip("+").partition("=")[0]
    said = f"sft models {key}: is not read: it doesn't say which registry is asked; {fix}"
    assert [str(problem) for problem in refused.value.problems] == [said]
