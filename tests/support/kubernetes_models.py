"""Kubernetes' own objects, held to the API as its Python client was made from it: fields, types, what is required."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Any

_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (float, int),
    "datetime": (str, datetime),
}


def problems(manifest: dict[str, Any]) -> list[str]:
    """Return what an API server would not take of an object, or would drop: each as ``spec.template.x: …``.

    Raises:
        AttributeError: The client has no such kind.
    """
    return list(_problems(manifest, f"V1{manifest['kind']}", ""))


def _problems(value: Any, kind: str, path: str) -> Iterator[str]:
    if listed := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{path}: is no list"
            return
        for place, item in enumerate(value):
            yield from _problems(item, listed[1], f"{path}[{place}]")
    elif mapped := re.fullmatch(r"dict\(str, (.+)\)", kind):
        if not isinstance(value, dict):
            yield f"{path}: is no mapping"
            return
        for key, item in value.items():
            yield from _problems(item, mapped[1], f"{path}.{key}")
    elif kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (kind != "bool" and isinstance(value, bool)):
            yield f"{path}: {value!r} is no {kind}"
    elif kind != "object":  # a number or a text
        yield from _fields(value, kind, path)


def _fields(value: Any, kind: str, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: is no {kind}"
        return
    model, required = _model(kind)
    names = {spelled: name for name, spelled in model.attribute_map.items()}
    for key in required - value.keys():
        yield f"{path}: {key} is required"
    for key, item in value.items():
        where = f"{path}.{key}".lstrip(".")
        if key not in names:
            yield f"{where}: unknown field"
        else:
            yield from _problems(item, model.openapi_types[names[key]], where)


@cache
def _model(kind: str) -> tuple[Any, frozenset[str]]:
    """Return a kind's model and its required fields: those that it refuses to set to None."""
    from kubernetes import client

    model = getattr(client, kind)
    lenient, strict = client.Configuration(), client.Configuration()
    lenient.client_side_validation, strict.client_side_validation = False, True
    empty, required = model(local_vars_configuration=lenient), set()
    empty.local_vars_configuration = strict
    for name, spelled in model.attribute_map.items():
        try:
            setattr(empty, name, None)
        except ValueError:
            required.add(spelled)
    return model, frozenset(required)
