"""What the value of a setting may be: declared where the setting is, in its field's metadata, and checked in one walk.

A rule concerns one value (`rules`, `texts`). What must hold between settings is in `sft.config.checks`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar, cast

from sft.config.schema.rules import Each, Groups, Number, Pairs, Rule, Tree
from sft.errors import Problem

T = TypeVar("T")

LARGEST_INT32 = 2**31 - 1
"""What a kernel's index, a process's timeout and a group's id hold."""
LARGEST_SEED = 2**32 - 1
"""numpy's generators take no larger seed."""

_RULE = "rule"


def number(
    default: T,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> T:
    """Declare a setting that is a number."""
    return setting(default, Number(at_least=at_least, above=above, at_most=at_most, below=below))


def random_seed(default: int) -> int:
    """Declare a setting that is a seed."""
    return number(default, at_least=0, at_most=LARGEST_SEED)


def setting(default: T, rule: Rule) -> T:
    """Declare a setting with a rule, as most texts have one."""
    made: T = _declared(rule, default=default)
    return made


def each(item: Rule, *default: str) -> list[Any]:
    """Declare a setting that is a list, with the items that it has by default."""
    made: list[Any] = _declared(Each(item), default_factory=lambda: [*default])
    return made


def pairs(name: Rule, value: Rule) -> dict[str, Any]:
    """Declare a setting that is a mapping, by default an empty one."""
    made: dict[str, Any] = _declared(Pairs(name, value), default_factory=dict)
    return made


def groups(name: Rule) -> dict[str, Any]:
    """Declare a setting that maps names to groups of settings, by default an empty mapping."""
    made: dict[str, Any] = _declared(Groups(name), default_factory=dict)
    return made


def tree() -> dict[str, Any]:
    """Declare a setting whose content is passed on as it is, by default an empty mapping."""
    made: dict[str, Any] = _declared(Tree(), default_factory=dict)
    return made


def _declared(rule: Rule, **default: Any) -> Any:
    return dataclasses.field(metadata={_RULE: rule}, **default)


def rule_of(field: dataclasses.Field[Any]) -> Rule | None:
    """Return what a setting declares; None where its type says it all."""
    return cast("Rule | None", field.metadata.get(_RULE))


def out_of_bounds(cfg: Any, prefix: str = "") -> Iterator[Problem]:
    """Yield every value that its own setting does not allow, in a group of settings and the groups in it.

    Args:
        cfg: A dataclass of `sft.config.schema`.
        prefix: What stands before its fields' names in a dotted key.
    """
    for field in dataclasses.fields(cfg):
        key, value = f"{prefix}{field.name}", getattr(cfg, field.name)
        if dataclasses.is_dataclass(value):
            yield from out_of_bounds(value, f"{key}.")
            continue
        for problem in _problems(field, key, value):
            or_null = field.default is None and problem.key == key
            yield dataclasses.replace(problem, rule=f"{problem.rule}, or null") if or_null else problem
        for name, group in _groups_in(value):
            yield from out_of_bounds(group, f"{key}.{name}.")


def within_bounds(cfg: T) -> T:
    """Return a copy of a group of settings in which each value that its setting does not allow is the default."""
    group = cast(Any, cfg)
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = within_bounds(value)
        elif any(_problems(field, field.name, value)):
            changes[field.name] = _default(field)
        elif named := dict(_groups_in(value)):
            changes[field.name] = {name: within_bounds(one) for name, one in named.items()}
    made: T = dataclasses.replace(group, **changes)
    return made


def _groups_in(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and group of a mapping to groups of settings."""
    if isinstance(value, dict):
        yield from ((name, item) for name, item in value.items() if dataclasses.is_dataclass(item))


def _problems(field: dataclasses.Field[Any], key: str, value: Any) -> Iterator[Problem]:
    rule = rule_of(field)
    if rule and value is not None and not isinstance(value, bool):  # registry.sign is a path, true or false
        yield from rule.problems(key, value)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is dataclasses.MISSING:
        return field.default
    return field.default_factory()
