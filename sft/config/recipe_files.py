"""Reads the YAML files of recipes and groups, as strictly as `sft.config.strict_yaml` has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins import file_config_source
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from sft.config import as_written, strict_yaml
from sft.errors import ConfigError, Problem
from sft.files import read_document


def read_recipe(path: Path) -> dict[str, Any]:
    """Return what a recipe's file says, before anything is composed.

    Raises:
        ConfigError: It is not what `sft.config.strict_yaml` takes, or no mapping.
    """
    try:
        content = as_written.load(_text(path))
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
        if not path.is_file():
            return super().load_config(config_path)
        try:
            text = _text(path)
            strict_yaml.check(text)
            result = super().load_config(config_path)
            content = as_written.load(text, _group(config_path, result.header.get("package")))
            _check_order(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return replace(result, config=OmegaConf.create({} if content is None else content))


def _group(config_path: str, package: str | None) -> str:
    """Return the group whose settings a file holds: `training.lora` of `training/lora/mine`, or as `@package` says."""
    if package is None:
        return ".".join(Path(config_path).parts[:-1])
    return "" if package == "_global_" else package


def _check_order(content: Any) -> None:
    """Refuse a list of defaults of which some would overrule what stands in the file itself.

    Raises:
        ValueError: Another file comes after `_self_`.
    """
    if not isinstance(content, dict) or not set(content) - {"defaults"}:
        return
    entries = content.get("defaults")
    entries = entries if isinstance(entries, list) else []
    after = entries[entries.index("_self_") + 1 :] if "_self_" in entries else []
    chosen = [
        entry
        for entry in after
        if not (isinstance(entry, dict) and str(next(iter(entry), "")).split()[:1] == ["override"])
    ]
    if chosen:
        raise ValueError(f"defaults: {chosen[0]} after _self_ would overrule what stands here: put _self_ last")


def _text(path: Path) -> str:
    """Return the text of a YAML file.

    Raises:
        ValueError: It is not UTF-8, no file, or longer than `strict_yaml` takes.
    """
    try:
        return read_document(path, strict_yaml.LARGEST_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not valid YAML: {error}") from error
