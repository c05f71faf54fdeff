"""Owns how facts are kept as the custom properties of a Kubeflow Model Registry, and how they are read back.

Its page shows texts and numbers, not booleans, and a text that is empty as a label named by its key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sft.adapters.registry import Fact, is_own

Property = dict[str, Any]
"""A custom property, as the server tells it: ``{"metadataType": …, "string_value": …}``."""

_FIELDS = {
    "MetadataStringValue": "string_value",
    "MetadataDoubleValue": "double_value",
    "MetadataIntValue": "int_value",
    "MetadataBoolValue": "bool_value",
}
_DIGITS = 9
"""Of an integer in the contract (MetadataIntValue)."""


def properties(
    facts: Mapping[str, Fact], labels: Iterable[str], registered: Mapping[str, Property]
) -> dict[str, Property]:
    """Return what a version's properties become: ours renewed, everybody else's as they are.

    Args:
        facts: What is told now.
        labels: Labels for the page; one that somebody has given a text keeps it.
        registered: Its properties until now; empty for a new version.
    """
    others = {key: value for key, value in registered.items() if not is_own(key)}
    told = {key: _property(value, registered.get(key)) for key, value in facts.items()}
    return {**{label: _text("") for label in labels}, **others, **told}


def facts_of(registered: Mapping[str, Property]) -> dict[str, Fact]:
    """Return the properties that are texts, numbers or booleans; whole doubles come back as whole numbers."""
    facts = {}
    for key, kept in registered.items():
        value = kept.get(_FIELDS.get(str(kept.get("metadataType")), ""))
        if kept.get("metadataType") == "MetadataIntValue" and isinstance(value, str):
            value = int(value)
        if isinstance(value, str | int | float):
            facts[key] = value
    return facts


def _property(value: Fact, registered: Property | None) -> Property:
    """Return a fact in the type that it has in the registry, or in the type that every new one has.

    Every number is a double: an integer has nine digits there, and a type that changes with the value breaks updates.
    A double holds whole numbers exactly up to 2^53.
    """
    kind = str(registered.get("metadataType")) if registered else ""
    match value:
        case bool():
            is_kept = kind == "MetadataBoolValue"
            return {"metadataType": kind, "bool_value": value} if is_kept else _text(str(value).lower())
        case str():
            return _text(value)
        case int() | float() if kind == "MetadataStringValue":
            return _text(f"{value:g}" if isinstance(value, float) else str(value))
        case int() | float() if kind == "MetadataIntValue" and _fits(value):
            return {"metadataType": kind, "int_value": str(int(value))}
        case _:
            return {"metadataType": "MetadataDoubleValue", "double_value": float(value)}


def _fits(number: float) -> bool:
    return math.isfinite(number) and number == int(number) and len(str(abs(int(number)))) <= _DIGITS


def _text(text: str) -> Property:
    return {"metadataType": "MetadataStringValue", "string_value": text}
