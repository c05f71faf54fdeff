"""What the state of a base model is, and when there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.config.schema import ModelConfig
from sft.errors import ConfigError
from sft.stages.model import source_version


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        source_version(ModelConfig(name_or_path=str(tmp_path), revision="main"))
    [problem] = refused.value.problems
    assert str(problem) == f"model.revision=main: is for a model on the hub, and {tmp_path} is a folder; try null"


def test_the_state_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    before = source_version(ModelConfig(name_or_path=str(tmp_path)))
    assert before.startswith("config.json=")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "a": 1}))
    assert source_version(ModelConfig(name_or_path=str(tmp_path))) != before
