"""The schema that editors read: true for every shipped recipe, and no further from the settings than they are."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from sft.config.compose import recipes, shipped
from sft.config.json_schema import SCHEMA_FILE, recipe_schema, schema_text
from sft.config.schema import RunConfig

SCHEMA = recipe_schema()
VALID = Draft202012Validator(SCHEMA)


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_the_shipped_file_is_what_sft_schema_prints() -> None:
    file = shipped("recipes") / SCHEMA_FILE
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(schema_text(), encoding="utf-8")
    assert file.read_text(encoding="utf-8") == schema_text(), "UPDATE_GOLDEN=1 writes it"


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)
def test_every_shipped_recipe_names_it_and_is_valid(recipe: Any) -> None:
    text = recipe.path.read_text(encoding="utf-8")
    assert f"\n# yaml-language-server: $schema={SCHEMA_FILE}\n" in text
    assert [error.message for error in VALID.iter_errors(yaml.safe_load(text))] == []


def settings(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        yield (*prefix, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings(value, (*prefix, field.name))


def test_every_setting_is_there_with_what_it_means() -> None:
    undescribed = []
    for path in settings(RunConfig()):
        place = SCHEMA
        for name in path:
            place = place["properties"][name]
        if not place.get("description"):
            undescribed.append(path[-1])
    assert len(undescribed) < 30, undescribed  # names that say it all: seed, num_epochs


@pytest.mark.parametrize(
    ("recipe", "place"),
    [
        ({"training": {"learning_rat": 1}}, ["training"]),
        ({"model_name": {}}, []),
        ({"training": {"learning_rate": -1}}, ["training", "learning_rate"]),
        ({"training": {"save_samples": 0.5}}, ["training", "save_samples"]),
        ({"training": {"fsdp": {"sharding_strategy": "full_shard"}}}, ["training", "fsdp", "sharding_strategy"]),
        ({"training": {"lora": {"dropout": 1}}}, ["training", "lora", "dropout"]),
        ({"eval": {"tasks": "arc_easy"}}, ["eval", "tasks"]),
        ({"eval": {"holdouts": {"legal": {"ur": "x"}}}}, ["eval", "holdouts"]),
        ({"training": {"env": {"A": 1}}}, ["training", "env"]),
    ],
)
def test_what_a_run_would_refuse_is_marked(recipe: dict[str, Any], place: list[str]) -> None:
    errors = list(VALID.iter_errors(recipe))
    assert [list(error.path)[: len(place)] for error in errors] == [place]


@pytest.mark.parametrize(
    "recipe",
    [
        {"training": {"learning_rate": "${oc.env:RATE}", "lora": {"target_modules": None}, "neftune_alpha": 5}},
        {"dataset": {"uri": "???", "storage_options": {"client": {"a": [1]}}}, "registry": {"sign": True}},
        {"eval": {"holdouts": {"legal": {"uri": "x.jsonl"}}}, "hydra": {"sweeper": {"params": {"a": "1,2"}}}},
        {"phase_02_train_man_epochs": 3, "defaults": ["config", {"override /dataset": "hub"}, "_self_"]},
    ],
)
def test_what_a_run_takes_is_not_marked(recipe: dict[str, Any]) -> None:
    assert [error.message for error in VALID.iter_errors(recipe)] == []
