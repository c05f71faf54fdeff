"""Reads a recipe's values as they are written, where YAML or Hydra would make something else of them.

YAML 1.1 takes `1.10` for 1.1, `no` for false, `010` for 8 and `1:30` for 90; Hydra takes `true` for True. What is meant
is said by the setting's type: a text is what stands there, and a number is a decimal one.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from sft.config import strict_yaml
from sft.config.kfp_parameters import quoted
from sft.config.schema import RunConfig
from sft.config.setting_names import free_mapping, hint_of, hint_within

_GUESSED = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool")}
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_NUMBER = re.compile(r"[+-]?[0-9_.]+([eE][+-]?[0-9_]+)?|[+-]?(inf|nan)|true|false", re.IGNORECASE)
"""What Hydra's grammar takes for a number, for true or for false."""


def load(text: str, group: str = "") -> Any:
    """Return what a YAML document of settings holds, as OmegaConf reads it but for what it would make of plain values.

    Args:
        text: The document.
        group: Dotted key of the group of settings that it is of; empty = of a recipe.

    Raises:
        ValueError: See `strict_yaml.check`.
    """
    strict_yaml.check(text)
    loader = get_yaml_loader()(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _keep(node, hint_of(group) if group else RunConfig)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def override_value(key: str, value: str) -> str:
    """Return the value of an override so that Hydra leaves the texts in it as they are typed.

    Args:
        key: The setting.
        value: One value, a list, or the values of a sweep, as a person types them.
    """
    if not _is_of_texts(key) or set(value) & {*"'\"(){}$\\"}:
        return value
    return "".join(
        quoted(part.strip()) if _NUMBER.fullmatch(part.strip()) else part for part in re.split(r"([\[\],])", value)
    )


def _keep(node: yaml.Node, hint: Any) -> None:
    """Make texts of the plain values of settings that are text, numbers or choices; their types make the rest of it."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            _keep(value, hint if name.tag == _MERGE else hint_within(hint, str(name.value)))
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _keep(item, hint_within(hint, ""))
    elif node.tag in _GUESSED and _is_plain(hint):
        node.tag = _TEXT


def _is_plain(hint: Any) -> bool:
    return hint in (str, int, float) or (isinstance(hint, type) and issubclass(hint, Enum))


def _is_of_texts(key: str) -> bool:
    mapping = free_mapping(key)
    hint = hint_of(key) or (hint_within(hint_of(mapping), "") if mapping else None)
    return str in (hint, hint_within(hint, ""))
