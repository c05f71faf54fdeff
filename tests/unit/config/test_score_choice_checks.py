"""By which scores an epoch's model may be chosen, and what is refused or told."""

from __future__ import annotations

import pytest

from sft.config.score_choice_checks import choice_notes
from sft.config.selection_checks import check_selection
from sft.errors import ConfigError
from tests.support.configs import composed

EPOCHS = ["eval.every_epochs=1", "training.num_epochs=3"]
BY_LOSS = [*EPOCHS, "training.select.metric=holdout.loss"]
SUPPORT = "eval.holdouts.support.uri=rows.jsonl"


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        composed(*overrides)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    "overrides",
    [
        BY_LOSS,
        [*BY_LOSS, "training.fsdp.version=1"],
        [*BY_LOSS, "training.select.mode=min"],
        [*EPOCHS, "training.select.metric=holdout.exact_match", "training.select.mode=max"],
        [*EPOCHS, SUPPORT, "training.select.metric=support.rouge_l"],
        [*EPOCHS, "eval.epoch_tasks=[spell_numbers]", "training.select.metric=spell_numbers.acc"],
        [*BY_LOSS, "training.checkpoint_limit=2"],
    ],
)
def test_an_epoch_can_be_chosen_by_a_score_that_its_model_has(overrides: list[str]) -> None:
    assert [*check_selection(composed(*overrides))] == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["training.select.metric=holdout.loss"],
            "training.select.metric=holdout.loss: chooses among the models of epochs, and only the last one's is "
            "scored; try eval.every_epochs=1",
        ),
        (
            ["training.select.metric=val_loss"],
            "training.select.metric=val_loss: must be validation_loss, or name a score: task.metric; try "
            "validation_loss, or holdout.loss",
        ),
        (
            [*EPOCHS, "training.select.metric=judge.win_rate"],
            "training.select.metric=judge.win_rate: is no score of one model: a judge compares the finished one with "
            "the base model; choose by validation_loss, or by a score of a held-out set or task",
        ),
        (
            [*BY_LOSS, "training.early_stopping.patience=2"],
            "training.early_stopping.patience=2: can't end a training by holdout.loss, which is scored once it has "
            "ended; leave it out, or try training.select.metric=validation_loss",
        ),
        (
            [*EPOCHS, "training.select.metric=holdout.bleu"],
            "training.select.metric=holdout.bleu: the held-out set has no such score; it is scored for loss, "
            "perplexity, token_accuracy, exact_match, rouge_l, chrf",
        ),
        (
            [*EPOCHS, SUPPORT, "eval.epoch_holdouts=[holdout]", "training.select.metric=support.loss"],
            "training.select.metric=support.loss: the models of epochs are not scored on it: see eval.epoch_holdouts",
        ),
        (
            [*BY_LOSS, SUPPORT, "eval.holdout.enabled=false"],
            "training.select.metric=holdout.loss: the models of epochs are not scored on it: see "
            "eval.holdout.enabled=false",
        ),
        (
            [*BY_LOSS, SUPPORT, "dataset.train_split=1.0"],
            "training.select.metric=holdout.loss: no rows are held out: dataset.train_split=1; try "
            "dataset.train_split=0.9",
        ),
        (
            [*EPOCHS, "training.select.metric=spell_numbers.acc"],
            "training.select.metric=spell_numbers.acc: the models of epochs are scored on no task; try "
            "eval.epoch_tasks=[spell_numbers]",
        ),
        (
            [*BY_LOSS, "training.select.mode=max"],
            "training.select.mode=max: would choose the worst: holdout.loss is better when it is lower; try null",
        ),
        (
            [*EPOCHS, "training.select.metric=holdout.exact_match", "training.select.mode=min"],
            "training.select.mode=min: would choose the worst: holdout.exact_match is better when it is higher; try "
            "null",
        ),
    ],
)
def test_a_score_that_cant_choose_is_refused(overrides: list[str], said: str) -> None:
    assert problems(*overrides) == [said]


def test_without_any_score_none_can_choose() -> None:
    said = "training.select.metric=holdout.loss: nothing is scored: eval.enabled=false"
    assert said in problems("training.select.metric=holdout.loss", "eval.enabled=false")


def test_the_plan_tells_which_models_are_compared_and_that_the_score_becomes_optimistic() -> None:
    [told] = choice_notes(composed(*BY_LOSS))
    assert told == (
        "training.select.metric=holdout.loss: the model is the best one by it of epochs 1, 2 and 3, so scores on "
        "holdout will be optimistic; unbiased are those on a set or task that chose nothing"
    )
    validated = composed("training.select.metric=validation_loss", "training.validation_split=0.1")
    assert [*choice_notes(validated)] == [*choice_notes(composed())] == []
