"""A recipe as JSON Schema, so that an editor completes settings, shows what they mean and marks what they can't be.

Read from the dataclasses of `sft.config.schema`: types, bounds, defaults, and the docstring beneath each setting.
What no schema can say (texts' own rules, what must hold between settings) `sft plan` says.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
import types
import typing
from enum import Enum
from functools import cache
from typing import Any

from omegaconf import MISSING

from sft.config.schema import RunConfig
from sft.config.schema.bounds import rule_of
from sft.config.schema.rules import Number

SCHEMA_FILE = "recipe.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INTERPOLATION = {"type": "string", "pattern": r"\$\{"}
_PRIMITIVES: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
_DEFAULTS = {
    "description": "Which file of each group the recipe starts from; `_self_` is where its own settings come in.",
    "type": "array",
    "items": {"type": ["string", "object"]},
}
_HYDRA = {"description": "Hydra's own settings, as `sweeper.params` of a sweep.", "type": "object"}
_OF_THE_PIPELINE = {
    "^phase_0[1-4]_": {"description": "A parameter of the original Kubeflow pipeline (docs/pipelines.md)."}
}
_BOUNDS = {"at_least": "minimum", "above": "exclusiveMinimum", "at_most": "maximum", "below": "exclusiveMaximum"}


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe."""
    root = _of_group(RunConfig)
    return {
        "$schema": DIALECT,
        "title": "A recipe of sft",
        **root,
        "properties": {"defaults": _DEFAULTS, "hydra": _HYDRA, **root["properties"]},
        "patternProperties": _OF_THE_PIPELINE,
    }


def schema_text() -> str:
    """Return the schema as the file that lies beside the shipped recipes, which name it for editors."""
    return json.dumps(recipe_schema(), indent=1) + "\n"


def _of_group(group: type) -> dict[str, Any]:
    hints, texts = typing.get_type_hints(group), setting_texts(group)
    return {
        "description": inspect.cleandoc(group.__doc__ or ""),
        "type": "object",
        "additionalProperties": False,
        "properties": {
            field.name: _of_setting(field, hints[field.name], texts.get(field.name))
            for field in dataclasses.fields(group)
        },
    }


def _of_setting(field: dataclasses.Field[Any], kind: Any, text: str | None) -> dict[str, Any]:
    described = {"description": text} if text else {}
    if dataclasses.is_dataclass(kind):
        group = _of_group(typing.cast(type, kind))
        return {**group, "description": text or group["description"]}
    rule, default = rule_of(field), field.default
    bounds = _bounds(rule) if isinstance(rule, Number) else {}
    if default is not dataclasses.MISSING and default is not MISSING:
        described["default"] = default.name if isinstance(default, Enum) else default
    return {**described, "anyOf": [*(option | bounds for option in _options(kind)), _INTERPOLATION]}


def _options(kind: Any) -> list[dict[str, Any]]:
    """Return a schema for each kind of value that a type takes; a list's or a mapping's with those of its items."""
    if kind is Any:
        return [{}]
    if kind is type(None):
        return [{"type": "null"}]
    if kind in _PRIMITIVES:
        return [{"type": _PRIMITIVES[kind]}]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [{"enum": [member.name for member in kind]}]
    if dataclasses.is_dataclass(kind):
        return [_of_group(typing.cast(type, kind))]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return [option for each in arguments for option in _options(each)]
    if origin is list:
        return [{"type": "array", "items": {"anyOf": _options(arguments[0])}}]
    return [{"type": "object", "additionalProperties": {"anyOf": _options(arguments[1])}}]


def _bounds(rule: Number) -> dict[str, float]:
    return {name: bound for ours, name in _BOUNDS.items() if (bound := getattr(rule, ours)) is not None}


@cache
def setting_texts(group: type) -> dict[str, str]:
    """Return the docstring beneath each setting of a group that has one, on one line."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(group))).body
    texts = {}
    body = typing.cast(ast.ClassDef, definition).body
    for setting, below in itertools.pairwise(body):
        match setting, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = " ".join(text.split())
    return texts
