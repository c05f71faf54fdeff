"""Which models on the way stay."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft.adapters.instructlab.rank.saved_models import SavedModels
from sft.adapters.instructlab.settings import WorkerOptions

MAIN = SimpleNamespace(is_main_process=True, save_model=None)
MODEL = SimpleNamespace(tokenizer=None)


def models(work: Path, limit: int | None) -> SavedModels:
    def save(*, args: argparse.Namespace, samples_seen: int, **_: Any) -> None:
        (Path(args.output_dir) / "hf_format" / f"samples_{samples_seen}").mkdir(parents=True)

    args = argparse.Namespace(output_dir=str(work), lora_r=0)
    return SavedModels(args, WorkerOptions(checkpoint_limit=limit), save)


def names(work: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("samples_")) for path in (work / "hf_format").iterdir())


@pytest.mark.parametrize(("limit", "left"), [(None, [8, 9, 10, 11]), (1, [11]), (3, [9, 10, 11])])
def test_the_newest_models_on_the_way_stay_by_number_and_not_by_name(
    limit: int | None, left: list[int], tmp_path: Path
) -> None:
    saved = models(tmp_path, limit)
    for samples in (8, 9, 10, 11):
        saved.save(MAIN, MODEL, samples)
    assert names(tmp_path) == left


def test_the_model_that_a_training_ends_with_is_none_of_those_on_the_way(tmp_path: Path) -> None:
    saved = models(tmp_path, 1)
    for samples in (8, 9):
        saved.save(MAIN, MODEL, samples)
    saved.save(MAIN, MODEL, 10, may_be_final=True)
    assert names(tmp_path) == [9, 10]
    saved.trim(MAIN)  # it ended with another one
    assert names(tmp_path) == [10]


def test_a_chosen_model_lies_apart(tmp_path: Path) -> None:
    saved = models(tmp_path, 1)
    saved.save(MAIN, MODEL, 8)
    saved.save_chosen(MAIN, MODEL, 4)
    assert names(tmp_path) == [8]
    assert names(tmp_path / "chosen") == [4]


def test_models_after_the_place_from_which_a_training_goes_on_are_not_counted(tmp_path: Path) -> None:
    killed = models(tmp_path, 2)
    for samples in (8, 9, 10):
        killed.save(MAIN, MODEL, samples)
    saved = models(tmp_path, 2)
    saved.forget_later(9)
    assert names(tmp_path) == [9]
    saved.save(MAIN, MODEL, 10)
    assert names(tmp_path) == [9, 10]
