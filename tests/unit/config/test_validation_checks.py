"""What may be validated while a training goes on, and what is refused."""

from __future__ import annotations

import pytest

from sft.config.validation_checks import check_validation
from sft.errors import ConfigError
from tests.support.configs import composed

SETS = ["eval.holdouts.gold.uri=gold.jsonl", "eval.holdouts.chat.uri=chat.jsonl"]
VALIDATES = [*SETS, "training.validation_sets=[gold,chat]"]
SOURCES = ["dataset.uri=", "dataset.sources.math.uri=a.jsonl", "dataset.sources.chat.uri=b.jsonl"]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        VALIDATES,
        [*VALIDATES, "training.validation_frequency=5", "training.fsdp.version=1"],
        [*VALIDATES, "training.validation_split=0.1", "training.select.metric=validation_loss.gold"],
        [*VALIDATES, "training.select.metric=validation_loss", "training.early_stopping.patience=2"],
        [*SETS, "training.validation_sets=[gold]", *SOURCES],
        [*VALIDATES, "eval.enabled=false"],
    ],
)
def test_sets_that_can_be_validated_are_taken(overrides: list[str]) -> None:
    assert [*check_validation(composed(*overrides))] == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["training.validation_frequency=5"],
            "training.validation_frequency=5: needs samples to validate on; try training.validation_split=0.05, or a "
            "set of eval.holdouts in training.validation_sets",
        ),
        (
            ["training.validation_sets=[gold]"],
            "training.validation_sets=gold: is no set of eval.holdouts, which has none; say where its rows are: "
            "eval.holdouts.gold.uri=FILE",
        ),
        (
            [*SETS, "training.validation_sets=[golden]"],
            "training.validation_sets=golden: is no set of eval.holdouts, which has gold, chat; did you mean gold?",
        ),
        ([*SETS, "training.validation_sets=[gold,chat,gold]"], "training.validation_sets=gold: is named twice"),
        (
            [*VALIDATES, *SOURCES],
            "training.validation_sets=chat: is one of dataset.sources too, so that validation_loss.chat would have two "
            "meanings; rename the set in eval.holdouts",
        ),
        (
            [*SETS, "training.validation_sets=[gold]", *SOURCES, "training.select.metric=validation_loss.math"],
            "training.select.metric=validation_loss.math: needs samples to validate on that are of math; try "
            "training.validation_split=0.05",
        ),
        (
            [*SETS, "training.validation_sets=[gold]", "training.select.metric=validation_loss.chat"],
            "training.select.metric=validation_loss.chat: names no source and no set that is validated: "
            "dataset.sources has none, training.validation_sets gold; try training.validation_sets=[gold, chat]",
        ),
    ],
)
def test_what_cant_be_validated_is_refused_with_the_key_the_rule_and_a_way_out(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        composed(*overrides)
    assert [str(problem) for problem in caught.value.problems] == [said]


@pytest.mark.parametrize(
    ("overrides", "chosen_by"),
    [
        ([], []),
        (["training.select.metric=validation_loss.gold"], ["gold"]),
        (["training.select.metric=validation_loss"], ["gold", "chat"]),
        (["training.select.metric=validation_loss", "training.validation_split=0.1"], []),
        (["training.select.metric=holdout.loss", "eval.every_epochs=1", "training.num_epochs=3"], []),
    ],
)
def test_which_sets_choose_the_step(overrides: list[str], chosen_by: list[str]) -> None:
    assert composed(*VALIDATES, *overrides).training.choosing_sets() == chosen_by
