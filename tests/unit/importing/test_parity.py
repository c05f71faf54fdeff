"""`docs/parity.md` and the tables beneath it: current, and complete for each project."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from sft.config.schema import RunConfig, SourceConfig
from sft.importing import parity
from sft.importing.convert import PROJECTS
from sft.importing.rows import Kind, Project

PAGE = Path(__file__).parents[3] / "docs" / "parity.md"
KEYS = Path(__file__).with_name("settings.txt")
"""Names of the settings that axolotl's and LLaMA-Factory's own classes have."""


def project(name: str) -> Project:
    return next(one for one in PROJECTS if one.name == name)


def lacks(known: Project, keys: list[str]) -> list[str]:
    rows = known.rows
    return [key for key in keys if key not in rows and not any(row.startswith((f"{key}.", f"{key}[")) for row in rows)]


def test_the_page_is_made_of_the_tables() -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(parity.text(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == parity.text(), "UPDATE_GOLDEN=1 pytest tests/unit/importing renews it"


@pytest.mark.slow
def test_every_setting_of_trl_is_in_its_table() -> None:
    trl = pytest.importorskip("trl")
    classes = (trl.SFTConfig, trl.ModelConfig, trl.ScriptArguments, trl.DatasetMixtureConfig)
    assert lacks(project("trl"), [field.name for one in classes for field in dataclasses.fields(one)]) == []


@pytest.mark.slow
def test_every_setting_of_transformers_is_in_the_tables_of_who_inherits_it() -> None:
    transformers = pytest.importorskip("transformers")
    keys = [field.name for field in dataclasses.fields(transformers.Seq2SeqTrainingArguments)]
    assert lacks(project("llama-factory"), keys) == []


@pytest.mark.parametrize("name", ["axolotl", "llama-factory"])
def test_every_setting_of_its_classes_is_in_a_table(name: str) -> None:
    text = KEYS.read_text(encoding="utf-8")
    keys = text.partition(f"[{name}]\n")[2].partition("\n[")[0].split()
    assert len(keys) > 150
    assert lacks(project(name), keys) == []


@pytest.mark.parametrize("known", PROJECTS, ids=[one.name for one in PROJECTS])
def test_our_keys_are_settings_and_what_is_not_here_has_a_reason(known: Project) -> None:
    for key, row in known.rows.items():
        assert row.kind is Kind.TAKEN or row.note or row.ours, key
        assert row.kind is not Kind.ABSENT or row.note, key
        for ours in filter(None, row.ours.split(", ")):
            source = ours.removeprefix("dataset.sources.NAME.")
            group: Any = RunConfig if source == ours else SourceConfig
            for part in source.split("."):
                fields = {field.name: field for field in dataclasses.fields(group)}
                assert part in fields, (key, ours)
                group = fields[part].default_factory
