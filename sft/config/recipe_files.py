"""Reads the YAML files of recipes and groups, as strictly as `sft.config.strict_yaml` has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra._internal.core_plugins import file_config_source
from hydra.plugins.config_source import ConfigResult

from sft.config import strict_yaml
from sft.errors import ConfigError, Problem
from sft.files import read_document


def read_recipe(path: Path) -> dict[str, Any]:
    """Return what a recipe's file says, before anything is composed.

    Raises:
        ConfigError: It is not what `sft.config.strict_yaml` takes, or no mapping.
    """
    try:
        content = strict_yaml.load(_text(path))
    except ValueError as error:
        raise ConfigError([Problem(key=str(path), rule=str(error))]) from error
    if not isinstance(content, dict):
        raise ConfigError([Problem(key=str(path), rule="a recipe is a mapping of keys to values")])
    if "hydra" in content and not isinstance(content["hydra"], dict):
        rule, value = "must be a mapping of Hydra's own settings", str(content["hydra"])
        raise ConfigError([Problem(key="hydra", value=value, rule=rule, suggestion="leave it out")])
    return content


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's folders of YAML, each file of which is checked before it is read.

    It has the name of Hydra's own: a sweep's jobs get this process's registry, and Hydra's, which they add to it, may
    replace only what has another name by an error (hydra/_internal/sources_registry.py:15@1.3.8).
    """

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, config_path).with_suffix(".yaml")
        if path.is_file():
            try:
                strict_yaml.check(_text(path))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
        return super().load_config(config_path)


def _text(path: Path) -> str:
    """Return the text of a YAML file.

    Raises:
        ValueError: It is not UTF-8, no file, or longer than `strict_yaml` takes.
    """
    try:
        return read_document(path, strict_yaml.LARGEST_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not valid YAML: {error}") from error
