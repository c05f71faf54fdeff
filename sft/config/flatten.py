"""Settings as a flat list of dotted keys, as registries and people want them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from sft.config.schema import RunConfig
from sft.redaction import redacted


def flat(cfg: RunConfig, groups: Sequence[str]) -> dict[str, str | int | float | bool]:
    """Return settings of some groups by dotted key: numbers as numbers, lists and mappings as JSON, null left out."""
    tree = {name: msgspec.to_builtins(getattr(cfg, name)) for name in groups}
    return dict(_flat(redacted(tree), ""))


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str | int | float | bool]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value if isinstance(value, str | int | float) else msgspec.json.encode(value).decode()
