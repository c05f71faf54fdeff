"""What a step may be chosen by, and what is refused or told."""

from __future__ import annotations

import pytest

from sft.config.selection_checks import check_selection, unread_selection
from sft.errors import ConfigError
from tests.support.configs import composed

CHOOSES = ["training.select.metric=validation_loss", "training.validation_split=0.1"]
SOURCES = ["dataset.uri=", "dataset.sources.math.uri=a.jsonl", "dataset.sources.chat.uri=b.jsonl"]


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        composed(*overrides)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        CHOOSES,
        [*CHOOSES, "training.early_stopping.patience=3", "training.early_stopping.min_delta=0.01"],
        [*CHOOSES, *SOURCES, "training.select.metric=validation_loss.chat"],
        ["training.checkpoint_limit=1"],
    ],
)
def test_a_choice_that_can_be_made_is_taken(overrides: list[str]) -> None:
    assert [*check_selection(composed(*overrides))] == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["training.select.metric=validation_loss"],
            "training.select.metric=validation_loss: needs samples to validate on; try training.validation_split=0.05, "
            "or a set of eval.holdouts in training.validation_sets",
        ),
        (
            [*CHOOSES, *SOURCES, "training.select.metric=validation_loss.code"],
            "training.select.metric=validation_loss.code: names no source and no set that is validated: "
            "dataset.sources has math, chat, training.validation_sets none; choose from validation_loss, "
            "validation_loss.math, validation_loss.chat",
        ),
        (
            [*CHOOSES, "training.fsdp.version=1"],
            "training.select.metric=validation_loss: needs FSDP2, whose weights can be kept beside the training; try "
            "training.fsdp.version=2",
        ),
        (
            ["training.early_stopping.patience=3"],
            "training.early_stopping.patience=3: needs a metric that may stop improving; try "
            "training.select.metric=validation_loss",
        ),
        (
            [*CHOOSES, "training.early_stopping.patience=3", "eval.every_epochs=1", "training.num_epochs=3"],
            "training.early_stopping.patience=3: may end a training before the epochs that eval.every_epochs scores; "
            "leave one of them out",
        ),
        (
            ["training.checkpoint_limit=2", "training.checkpoint_at_epoch=false"],
            "training.checkpoint_limit=2: keeps nothing: no model is saved on the way; try "
            "training.checkpoint_at_epoch=true",
        ),
        (
            ["training.checkpoint_limit=2", "eval.every_epochs=1", "training.num_epochs=4"],
            "training.checkpoint_limit=2: leaves not all of the models of 3 epochs on the way, some of which are "
            "to be scored; try null",
        ),
        (
            [*CHOOSES, "training.checkpoint_limit=3", "eval.every_epochs=1", "training.num_epochs=4"],
            "training.checkpoint_limit=3: leaves not all of the models of 4 epochs on the way, some of which are "
            "to be scored; try null",
        ),
    ],
)
def test_a_choice_that_cant_be_made_is_refused(overrides: list[str], said: str) -> None:
    assert problems(*overrides) == [said]


def test_what_does_nothing_or_is_odd_is_told() -> None:
    told = [*unread_selection(composed("training.select.mode=max", "training.early_stopping.min_delta=0.1").training)]
    assert told == [
        "training.select.mode=max: not read with training.select.metric=null",
        "training.early_stopping.min_delta=0.1: not read with training.early_stopping.patience=null",
    ]
    [odd] = unread_selection(composed(*CHOOSES, "training.select.mode=max").training)
    assert odd == "training.select.mode=max: chooses the step with the highest loss"
    assert [*unread_selection(composed(*CHOOSES).training)] == []
