"""Read the ``config.json`` of a run's base model, before the model is there if need be. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sft.adapters import base_model, hub
from sft.adapters.checkpoint_files import CONFIG, read_json
from sft.adapters.local_files import local_path
from sft.config.schema import ModelConfig, ModelSource


def read_model_config(cfg: ModelConfig) -> dict[str, Any] | None:
    """Return the base model's config; None if it is on the hub and not in the cache."""
    if cfg.source is ModelSource.scratch:
        return {"model_type": "qwen2", "tie_word_embeddings": True, **asdict(cfg.scratch)}
    folder = local_path(cfg.name_or_path)
    return read_config(folder if folder.is_dir() else base_model.cached(cfg.name_or_path, cfg.revision))


def fetch_model_config(cfg: ModelConfig) -> dict[str, Any] | None:
    """Return the base model's config, downloaded alone if it is on the hub; None if a folder has none, or a registry of
    images has it in a layer with the weights.

    Raises:
        DataError: There is no such model, or the hub can't be reached.
    """
    config = read_model_config(cfg)
    if config is None and not local_path(cfg.name_or_path).is_dir() and not base_model.is_oci(cfg.name_or_path):
        return read_config(hub.fetch_config(cfg.name_or_path, cfg.revision).parent)
    return config


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return the ``config.json`` of a model's folder; None if it has none.

    Raises:
        StageError: It holds no JSON object.
    """
    return read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
