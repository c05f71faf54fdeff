"""The config of a base model, wherever it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.config.schema import ModelConfig, ModelSource, ScratchConfig
from sft.errors import StageError
from sft.planning.model_config import fetch_model_config, read_model_config
from sft.planning.model_shape import shape_of


def test_a_model_from_scratch_has_the_shape_that_the_recipe_says() -> None:
    cfg = ModelConfig(source=ModelSource.scratch, scratch=ScratchConfig(hidden_size=96))
    config = read_model_config(cfg)
    assert config is not None
    shape = shape_of(config)
    assert shape is not None
    assert shape.hidden_size == 96


def test_a_folder_is_read_and_one_without_a_config_has_none(tmp_path: Path) -> None:
    cfg = ModelConfig(name_or_path=str(tmp_path))
    assert read_model_config(cfg) is None
    assert fetch_model_config(cfg) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert read_model_config(cfg) == fetch_model_config(cfg) == {"model_type": "llama"}


@pytest.mark.parametrize("content", ["{", "[]", "\0"])
def test_a_config_that_is_none_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(StageError, match=r"config\.json: "):
        read_model_config(ModelConfig(name_or_path=str(tmp_path)))


def test_a_model_of_the_hub_is_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cfg = ModelConfig(name_or_path="org/name")
    assert read_model_config(cfg) is None
    snapshot = tmp_path / "models--org--name" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert fetch_model_config(cfg) == {"model_type": "llama"}
