"""The settings of an adapter that a training continues, as those of `training.lora`. Reads one JSON file, no weight."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from sft.config.schema import AdapterUse, LoraConfig, LoraInit, ModelConfig
from sft.errors import Problem
from sft.files import local_path, read_document

_ADAPTER, _KEY, _LORA = "model.adapter", "model.adapter_use", "training.lora"
_CONFIG = "adapter_config.json"
_READ = {
    *("r", "lora_alpha", "lora_dropout", "target_modules", "target_parameters", "layers_to_transform"),
    *("modules_to_save", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"),
}
_NOT_OF_ITS_WEIGHTS = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "megatron_core", "qalora_group_size", "runtime_config", "fan_in_fan_out"),
    *("init_lora_weights", "eva_config", "corda_config", "lora_ga_config", "loftq_config"),
}
"""What names the adapter, and how it began. `adapter_files` refuses beginnings that change the base, PEFT sets
`fan_in_fan_out` by the layer's kind."""


def take_settings(model: ModelConfig, lora: LoraConfig) -> Iterator[Problem]:
    """Give `lora` the settings of the adapter that is continued, and yield what contradicts them.

    Dropout and how the base is kept are no properties of its weights: a recipe may set them.

    Args:
        model: Says which adapter, and whether it is continued; else nothing happens.
        lora: Changed where it has its defaults.
    """
    if model.adapter is None or model.adapter_use is not AdapterUse.continued:
        return
    found = _read(local_path(model.adapter), model.adapter)
    if isinstance(found, Problem):
        yield found
        return
    file, config = found
    if problems := [*_not_continued(file, config)]:
        yield from problems
        return
    untouched = LoraConfig()
    for name, own in _settings(config).items():
        value = getattr(lora, name)
        if value == getattr(untouched, name):
            setattr(lora, name, own)
        elif not _is_same(value, own) and name != "dropout":
            rule = f"contradicts the adapter that is continued, which has {_shown(own)} ({file})"
            fix = f"leave it out: the adapter's own settings hold with {_KEY}=continued"
            yield Problem(key=f"{_LORA}.{name}", value=_shown(value), rule=rule, suggestion=fix)


def _read(folder: Path, given: str) -> tuple[Path, dict[str, Any]] | Problem:
    """Return the settings of the adapter in a folder, or of the run whose folder it is."""
    inside = folder / "adapter"
    file = (folder if (folder / _CONFIG).is_file() or not inside.is_dir() else inside) / _CONFIG
    try:
        config = json.loads(read_document(file))
    except FileNotFoundError:
        fix = "give a run's folder, or one with PEFT's files, such as runs/NAME/adapter"
        return Problem(key=_ADAPTER, value=given, rule=f"there is no {file}", suggestion=fix)
    except (OSError, ValueError, RecursionError) as error:
        return Problem(key=_ADAPTER, value=given, rule=f"{file} can't be read: {error}")
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        rule, fix = f"is an adapter of the kind {kind} ({file})", "give a LoRA adapter"
        return Problem(key=_ADAPTER, value=given, rule=rule, suggestion=fix)
    return file, config


def _not_continued(file: Path, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield settings of the adapter that `training.lora` has no word for."""
    instead = "try model.adapter_use=merged, and train the merged model"
    shapes: dict[str, tuple[type, ...]] = {"r": (int,), "lora_alpha": (int, float), "lora_dropout": (int, float)}
    for name, kinds in shapes.items():
        value = config.get(name)
        if type(value) not in kinds or (name == "lora_alpha" and not float(str(value)).is_integer()):
            rule = f"has {name}={_shown(value)}, for which a whole number is needed ({file})"
            yield Problem(key=_ADAPTER, rule=rule.replace("a whole", "a") if name == "lora_dropout" else rule)
    for name in ("target_modules", "target_parameters", "modules_to_save"):
        if not _is_list_of(config.get(name), str):
            rule = f"has {name}={_shown(config[name])}, which is no list of names ({file})"
            fix = f"write the names of its layers there, or {instead.removeprefix('try ')}"
            yield Problem(key=_ADAPTER, rule=rule, suggestion=fix)
    layers = config.get("layers_to_transform")
    if type(layers) is not int and not _is_list_of(layers, int):
        yield Problem(key=_ADAPTER, rule=f"has layers_to_transform={_shown(layers)}, no list of numbers ({file})")
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(name) or {}
        whole = isinstance(pattern, dict) and all(type(value) is int for value in pattern.values())
        if not whole or any(not key.replace(".", "").replace("_", "").isalnum() for key in pattern):
            rule = f"has {name}={_shown(pattern)}; known are ends of names, with a whole number each ({file})"
            yield Problem(key=_ADAPTER, rule=rule, suggestion=instead)
    for name, value in config.items():
        is_none = not value or (name, value) == ("bias", "none")
        if name not in _READ | _NOT_OF_ITS_WEIGHTS and not is_none:
            rule = f"has {name}={_shown(value)}, with which no adapter is trained here ({file})"
            yield Problem(key=_ADAPTER, rule=rule, suggestion=instead)


def _is_list_of(value: Any, kind: type) -> bool:
    return value is None or (isinstance(value, list) and all(type(each) is kind for each in value))


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return PEFT's settings of an adapter under our names.

    PEFT knows a layer by the end of its name in whole parts, as `training.lora.target_modules` does
    (tuners_utils.py:check_target_module_exists@0.21).
    """
    layers = config.get("layers_to_transform")
    return {
        "rank": config["r"],
        "alpha": int(config["lora_alpha"]),
        "dropout": float(config["lora_dropout"]),
        "target_modules": sorted({*(config.get("target_modules") or ()), *(config.get("target_parameters") or ())}),
        "layers": [layers] if isinstance(layers, int) else layers,
        "modules_to_save": sorted(config.get("modules_to_save") or ()),
        "rank_pattern": dict(config.get("rank_pattern") or {}),
        "alpha_pattern": dict(config.get("alpha_pattern") or {}),
        "use_rslora": bool(config.get("use_rslora")),
        "use_dora": bool(config.get("use_dora")),
        "init": LoraInit.default,
    }


def _is_same(value: Any, own: Any) -> bool:
    if isinstance(value, list) and isinstance(own, list):
        return sorted(value) == sorted(own)
    return bool(value == own)


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        return value.name
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
