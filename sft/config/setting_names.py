"""What the schema says of a setting's name: whether there is one, its type, its choices."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from sft.config.schema import RunConfig


def schema_keys(cls: type = RunConfig, prefix: str = "") -> Iterator[str]:
    """Return the dotted names of all settings, groups included."""
    for name, hint in typing.get_type_hints(cls).items():
        yield prefix + name
        if is_dataclass(hint):
            yield from schema_keys(typing.cast(type, hint), f"{prefix}{name}.")


def choices_of(key: str) -> list[str]:
    """Return the values of a setting that has a few; none of any other setting."""
    hint = hint_of(key)
    if hint is bool:
        return ["true", "false"]
    return list(hint.__members__) if isinstance(hint, type) and issubclass(hint, Enum) else []


def is_whole_number(key: str) -> bool:
    """Return whether a setting takes nothing but whole numbers."""
    return hint_of(key) is int


def is_setting(key: str) -> bool:
    """Return whether the schema has a dotted key, or holds it in a free mapping (`training.env.NCCL_DEBUG`)."""
    mapping = free_mapping(key)
    return hint_of(key) is not None or (mapping is not None and group_by_name(hint_of(mapping)) is None)


def free_mapping(key: str) -> str | None:
    """Return the setting that is a mapping with keys of its own and is or holds `key`; None if there is none."""
    parts = key.split(".")
    heads = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next((head for head in heads if typing.get_origin(hint_of(head)) is dict), None)


def dotted_name(key: str) -> str | None:
    """Return `holdout.loss` of `eval.gates.holdout.loss`: a name with dots in a mapping to texts; None without."""
    mapping = free_mapping(key)
    name = key.removeprefix(f"{mapping}.")
    return name if mapping and name != key and "." in name and typing.get_args(hint_of(mapping))[1] is str else None


def inside_named_group(key: str) -> tuple[str, list[str]] | None:
    """Return `eval.holdouts` and [`support`, `uri`] of `eval.holdouts.support.uri`; None of any other setting.

    OmegaConf makes no new group of a mapping from a dotted key, but it does from a mapping.
    """
    mapping = free_mapping(key)
    if mapping is None or mapping == key or group_by_name(hint_of(mapping)) is None:
        return None
    return mapping, key.removeprefix(f"{mapping}.").split(".")


@cache
def hint_of(key: str) -> Any:
    """Return the declared type of a dotted key without its None; None where the schema has no such key."""
    hint: Any = RunConfig
    for part in key.split("."):
        if group := group_by_name(hint):
            hint = group
        elif is_dataclass(hint):
            hint = _hints(typing.cast(type, hint)).get(part)
        else:
            return None
    return _without_none(hint)


def hint_within(hint: Any, name: str) -> Any:
    """Return the declared type of what a group, a mapping or a list of a declared type holds, without its None."""
    if is_dataclass(hint):
        return _without_none(_hints(typing.cast(type, hint)).get(name))
    return _without_none(typing.get_args(hint)[-1]) if typing.get_origin(hint) in (dict, list) else None


def _without_none(hint: Any) -> Any:
    options = [o for o in typing.get_args(hint) if o is not type(None)]
    return options[0] if isinstance(hint, types.UnionType) and len(options) == 1 else hint


def group_by_name(hint: Any) -> Any:
    """Return the group of settings that a mapping holds by names of its own; None of any other type."""
    values = typing.get_args(hint)[1:] if typing.get_origin(hint) is dict else ()
    return values[0] if values and is_dataclass(values[0]) else None


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)
